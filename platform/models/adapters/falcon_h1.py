"""Falcon-H1 (Zuo et al., arXiv 2507.22448): Mamba-2 and attention side by side in every layer, then a gated MLP.

    mixer_out = ssm_scale * mamba(u) + attention_scale * attention(scale * u)

Fixed factors ("mup multipliers") stand at embeddings, projections, keys, gate, MLP and logits. Below `mixer.` a layer
has the sites of Mamba-2 and those of attention, and the two parts that mixer_out adds up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access.run import Run
from ..mixer import LayerState, SiteInfo
from ..state import ModelState
from .adapter import adapter
from .attention import Rotation, SeparateAttention
from .base import AdaptedBlock, AdaptedModel, Part, require_silu, usual_parts
from .feed_forward import GatedUnit
from .ssm import AdaptedMamba2
from .value_checks import require_multiple, require_token_below


class FalconH1Mamba(AdaptedMamba2):
    """Mamba-2 with factors on its input and on each part of the projection; the gated norm is optional, and the gate
    may come after it."""

    def __init__(self, theirs: Any, hf: Any) -> None:
        super().__init__(theirs)
        self.in_scale = hf.ssm_in_multiplier
        self.part_scales = tuple(hf.ssm_multipliers)  # of gate, x, B, C, dt
        self.has_norm, self.norm_first = hf.mamba_rms_norm, hf.mamba_norm_before_gate

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, xBC, dt = super().project(u * self.in_scale)
        on_gate, on_x, on_B, on_C, on_dt = self.part_scales
        GN = self.config.n_groups * self.config.state_size
        widths = ((self.config.inner_size, on_x), (GN, on_B), (GN, on_C))
        factors = torch.cat([xBC.new_full((width,), factor) for width, factor in widths])
        return gate * on_gate, xBC * factors, dt * on_dt

    def gated(self, y: Tensor, gate: Tensor) -> Tensor:
        if not self.has_norm:
            return y * F.silu(gate)
        return self.norm(y) * F.silu(gate) if self.norm_first else super().gated(y, gate)


class FalconH1Attention(SeparateAttention):
    """Attention with a factor on its input and on its keys."""

    def __init__(self, theirs: Any, hf: Any) -> None:
        from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RotaryEmbedding

        super().__init__(theirs, Rotation(FalconH1RotaryEmbedding, hf))
        self.in_scale, self.key_scale = hf.attention_in_multiplier, hf.key_multiplier

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(u * self.in_scale)
        return q, k * self.key_scale, v


class FalconH1Block(AdaptedBlock):
    """Two mixers that read the same input; their states share the layer's dict."""

    def __init__(self, layer: Any, hf: Any) -> None:
        mixer = Part("mamba", FalconH1Mamba(layer.mamba, hf))
        mlp = GatedUnit(layer.feed_forward, hf.mlp_multipliers[0], hf.mlp_multipliers[1])
        super().__init__(hf.hidden_size, **usual_parts(layer, mixer, mlp))
        self.self_attn = FalconH1Attention(layer.self_attn, hf)
        self.ssm_scale, self.attention_scale = hf.ssm_out_multiplier, hf.attention_out_multiplier

    def mixer_sites(self) -> list[SiteInfo]:
        d = (self.width,)
        return [
            *self.mixer.site_table(),
            SiteInfo("ssm_out", d, "what the recurrent branch adds to mixer_out"),
            *self.self_attn.site_table(),
            SiteInfo("attention_out", d, "what the attention branch adds to mixer_out"),
        ]

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return self.mixer.zero_state(batch, dtype, device) | self.self_attn.zero_state(batch, dtype, device)

    def mix(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        recurrent, h = super().mix(u, run, prefix, state, need_state)
        recurrent = run.site(prefix + "ssm_out", recurrent * self.ssm_scale)
        attended, past = self.self_attn(u, run, prefix, state, need_state)
        attended = run.site(prefix + "attention_out", attended * self.attention_scale)
        return recurrent + attended, (h or {}) | (past or {}) if need_state else None


@adapter("falcon_h1")
class FalconH1(AdaptedModel):
    """Sites of Mamba-2 and of attention below `mixer.`, with ssm_out and attention_out; mlp.hidden."""

    hf_class = "FalconH1ForCausalLM"

    @classmethod
    def check(cls, hf: Any) -> None:
        require_silu(hf)
        require_multiple(hf, "num_attention_heads", "num_key_value_heads")
        require_multiple(hf, "mamba_n_heads", "mamba_n_groups")
        require_token_below(hf, "pad_token_id")
        Rotation.check(hf)

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        return FalconH1Block(layer, hf)

    def _embed(self, tokens: Tensor, run: Run, state: ModelState | None) -> Tensor:
        return super()._embed(tokens, run, state) * self.embedding_scale

    @property
    def embedding_scale(self) -> float:
        return float(self.hf.embedding_multiplier)

    def _scores(self, normed: Tensor) -> Tensor:
        return super()._scores(normed) * self.hf.lm_head_multiplier

    @property
    def head_matrix(self) -> tuple[Tensor, float] | None:
        plain = super().head_matrix
        return None if plain is None else (plain[0], float(self.hf.lm_head_multiplier))
