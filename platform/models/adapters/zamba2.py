"""Zamba2 (Zyphra, arXiv 2411.15242): Mamba-2 layers, some of which first ask a transformer block that they share.

    s = linear(shared([residual, embedding]));   residual += mamba(norm(residual + s))

The shared block attends over the residual stream beside the token embeddings, and a gated MLP follows inside of it;
both have low-rank additions of their own for each layer that asks. Its answer goes into the mixer's input only, so that
the residual stream gets one addition per layer. Layers that share keep one set of weights, stored under the first of
them, as transformers writes it; without `tie_word_embeddings` transformers ties these weights as little as the head,
and each layer has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ..access.run import Run
from ..mixer import LayerState, SiteInfo
from .adapter import adapter
from .adapter_config import AdaptedConfig
from .attention import Rotation, SeparateAttention
from .base import AdaptedBlock, AdaptedModel, Part, norm
from .ssm import AdaptedMamba2
from .value_checks import require_multiple, require_names, require_product, require_token_below

_EMBEDDED = "zamba2.embedded"  # key of `Run.shared`: what entered the first block


class Zamba2Attention(SeparateAttention):
    """Attention over twice the width, with low-rank additions to q, k and v of the layer that asks.

    number: which of the asking layers this is; it chooses the additions.
    """

    def __init__(self, theirs: Any, number: int, rotation: Rotation | None) -> None:
        super().__init__(theirs, rotation)
        self.number, self.has_additions = number, theirs.config.use_shared_attention_adapter
        if self.has_additions:
            self.linear_q_adapter_list = theirs.linear_q_adapter_list
            self.linear_k_adapter_list = theirs.linear_k_adapter_list
            self.linear_v_adapter_list = theirs.linear_v_adapter_list

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(u)
        if not self.has_additions:
            return q, k, v
        on_q, on_k, on_v = self.linear_q_adapter_list, self.linear_k_adapter_list, self.linear_v_adapter_list
        return q + on_q[self.number](u), k + on_k[self.number](u), v + on_v[self.number](u)


class Zamba2Mlp(nn.Module):
    """The gated MLP inside of the shared block, with a low-rank addition of the layer that asks."""

    def __init__(self, theirs: Any, number: int) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = theirs.gate_up_proj, theirs.down_proj
        self.gate_up_proj_adapter_list, self.act_fn = theirs.gate_up_proj_adapter_list, theirs.act_fn
        self.number = number

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        gate, up = (self.gate_up_proj(u) + self.gate_up_proj_adapter_list[self.number](u)).chunk(2, -1)
        return self.down_proj(run.site(prefix + "shared_hidden", self.act_fn(gate) * up))


class SharedTransformer(nn.Module):
    """The shared block as one layer sees it: out = mlp(norm(attention(norm([residual, embedding])))), no residuals."""

    def __init__(self, theirs: Any, number: int, rotation: Rotation | None, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.self_attn = Zamba2Attention(theirs.self_attn, number, rotation)
        self.feed_forward = Zamba2Mlp(theirs.feed_forward, number)
        self.input_layernorm, self.pre_ff_layernorm = norms

    def for_layer(self, number: int) -> SharedTransformer:
        """The same weights, as asking layer `number` sees them."""
        return SharedTransformer(self, number, self.self_attn.rotation, (self.input_layernorm, self.pre_ff_layernorm))

    def site_table(self) -> list[SiteInfo]:
        hidden = self.feed_forward.down_proj.in_features
        return [
            *self.self_attn.site_table(),
            SiteInfo("shared_hidden", (hidden,), "act(gate) * up in the shared block"),
        ]

    def forward(
        self, residual: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        u = self.input_layernorm(torch.cat([residual, run.shared[_EMBEDDED]], -1))
        out, new_state = self.self_attn(u, run, prefix, state, need_state)
        return self.feed_forward(self.pre_ff_layernorm(out), run, prefix), new_state


class Zamba2Block(AdaptedBlock):
    """residual += mamba(norm(residual)); the first block also remembers what entered it."""

    def __init__(self, width: int, *, norm: Part, mixer: Part, is_first: bool) -> None:
        super().__init__(width, norm=norm, mixer=mixer)
        self.is_first = is_first

    def forward(
        self, residual: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        if self.is_first:
            run.shared[_EMBEDDED] = residual
        return super().forward(residual, run, prefix, state, need_state)


class AskingBlock(Zamba2Block):
    """A block that asks the shared one first. The owner of its weights keeps it as a part, the others refer to it."""

    borrows: ClassVar[bool] = True

    def __init__(self, layer: Any, shared: SharedTransformer, owns: bool, is_first: bool, width: int) -> None:
        inner = layer.mamba_decoder
        super().__init__(
            width,
            norm=Part("mamba_decoder.input_layernorm", norm(inner.input_layernorm)),
            mixer=Part("mamba_decoder.mamba", AdaptedMamba2(inner.mamba)),
            is_first=is_first,
        )
        self.linear = layer.linear
        self.referred = [shared]  # in a list, so that it is not a part: its weights are the owner's
        if owns:
            self.shared_transformer = shared

    @property
    def shared(self) -> SharedTransformer:
        return self.referred[0]

    def site_table(self) -> list[SiteInfo]:
        before, *rest = super().site_table()
        asked = [i._replace(name="mixer." + i.name) for i in self.shared.site_table()]
        answer = SiteInfo("mixer.shared_out", (self.width,), "the shared block's answer, added before the mixer's norm")
        return [before, *asked, answer, *rest]

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return super().zero_state(batch, dtype, device) | self.shared.self_attn.zero_state(batch, dtype, device)

    def forward(
        self, residual: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        if self.is_first:
            run.shared[_EMBEDDED] = residual
        residual = run.site(prefix + "resid_pre", residual)
        answer, past = self.shared(residual, run, prefix + "mixer.", state, need_state)
        answer = run.site(prefix + "mixer.shared_out", self.linear(answer))
        u = run.site(prefix + "mixer_in", self.norm(residual + answer))
        out, h = self.mix(u, run, prefix + "mixer.", state, need_state)
        residual = residual + run.site(prefix + "mixer_out", out)
        return run.site(prefix + "resid_post", residual), (h or {}) | (past or {}) if need_state else None


@adapter("zamba2")
class Zamba2(AdaptedModel):
    """Sites of Mamba-2 below `mixer.`; in layers that ask also q, k, v, z, shared_hidden and shared_out."""

    hf_class = "Zamba2ForCausalLM"

    @classmethod
    def check(cls, hf: Any) -> None:
        require_names(hf.layers_block_type, ("linear_attention", "hybrid"), "layers_block_type")
        if list(hf.hybrid_layer_ids) != [i for i, kind in enumerate(hf.layers_block_type) if kind == "hybrid"]:
            raise InputError("hybrid_layer_ids are not the blocks that layers_block_type calls hybrid")
        require_product(hf, "attention_hidden_size", 2, "hidden_size")
        require_product(hf, "attention_hidden_size", "num_attention_heads", "attention_head_dim")
        require_multiple(hf, "num_attention_heads", "num_key_value_heads")
        inner = int(hf.mamba_expand * hf.hidden_size)
        if hf.n_mamba_heads * hf.mamba_headdim != inner:
            raise InputError(
                f"n_mamba_heads {hf.n_mamba_heads} times mamba_headdim {hf.mamba_headdim} is not mamba_expand times "
                f"hidden_size, {inner}"
            )
        require_multiple(hf, "n_mamba_heads", "mamba_ngroups")
        require_token_below(hf, "pad_token_id")
        if hf.use_mem_rope:
            Rotation.check(hf)

    @classmethod
    def adapt_all(cls, layers: list[Any], hf: Any) -> list[AdaptedBlock]:
        from transformers.models.zamba2.modeling_zamba2 import Zamba2RotaryEmbedding

        rotation = Rotation(Zamba2RotaryEmbedding, hf) if hf.use_mem_rope else None
        owners: list[SharedTransformer] = []
        blocks: list[AdaptedBlock] = []
        asked = 0
        for i, layer in enumerate(layers):
            if hf.layers_block_type[i] != "hybrid":
                first = Part("input_layernorm", norm(layer.input_layernorm))
                mixer = Part("mamba", AdaptedMamba2(layer.mamba))
                blocks.append(Zamba2Block(hf.hidden_size, norm=first, mixer=mixer, is_first=i == 0))
                continue
            owns = asked < hf.num_mem_blocks or not hf.tie_word_embeddings
            if owns:
                block = layer.shared_transformer
                norms = (norm(block.input_layernorm), norm(block.pre_ff_layernorm))
                owners.append(SharedTransformer(block, asked, rotation, norms))
            shared = owners[asked] if owns else owners[asked % hf.num_mem_blocks].for_layer(asked)
            blocks.append(AskingBlock(layer, shared, owns, i == 0, hf.hidden_size))
            asked += 1
        return blocks

    @classmethod
    def ties(cls, config: AdaptedConfig, weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
        """The head, and every shared block's weights: those of the layers that ask later are the first ones' again."""
        pairs = super().ties(config, weights)
        asking = [i for i, kind in enumerate(config.hf.layers_block_type) if kind == "hybrid"]
        for number, layer in enumerate(asking[config.hf.num_mem_blocks :]):
            owner = asking[number % config.hf.num_mem_blocks]
            copy, original = (f"model.layers.{i}.shared_transformer." for i in (layer, owner))
            parts = {name.removeprefix(at) for at in (copy, original) for name in weights if name.startswith(at)}
            pairs += [(copy + part, original + part) for part in sorted(parts)]
        return pairs
