"""Nemotron-H (NVIDIA, arXiv 2504.03624): each layer is one of Mamba-2, attention without positions, an MLP with squared
relu, or a mixture of such MLPs; there is no second part.

So an MLP stands where other models have their mixer, its sites are below `mixer.`, and its state is empty. Layers for
predicting several tokens at once ("mtp"), which some files hold, are no part of the next token's scores: they are left
out, as transformers does, and not written back. transformers' class never ties: where config.json ties, the head is a
parameter of its own that begins as a copy of the embeddings, and files hold both.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..access.run import Run
from ..linear_recurrence import Recurrence
from ..mixer import FeedForward, LayerState, SiteInfo
from .adapter import adapter
from .attention import SeparateAttention
from .base import AdaptedBlock, AdaptedModel, Part, norm, require_silu
from .experts import MixtureOfExperts, PlainExpert
from .feed_forward import PlainMlp
from .ssm import AdaptedMamba2
from .value_checks import require_at_most, require_multiple


class NemotronMixture(MixtureOfExperts):
    """Experts chosen by sigmoid scores among the best groups of experts, beside one that every token is sent to.

    The correction bias of DeepSeek-V3 (arXiv 2412.19437) enters the choice and not the weights. With a latent size the
    chosen experts work on a narrower projection of u.
    """

    keep_float32: ClassVar[frozenset[str]] = frozenset({"gate"})

    def __init__(self, theirs: Any, hf: Any) -> None:
        stacked = zip(theirs.experts.up_proj, theirs.experts.down_proj, strict=True)
        experts = [PlainExpert(up, down, theirs.experts.act_fn) for up, down in stacked]
        super().__init__(Part("gate", theirs.gate), experts, theirs.gate.top_k)
        shared = theirs.shared_experts
        up, down = Part("up_proj", shared.up_proj), Part("down_proj", shared.down_proj)
        self.shared_experts = PlainMlp(up, down, shared.act_fn, shared.up_proj.out_features)
        self.fc1_latent_proj, self.fc2_latent_proj = theirs.fc1_latent_proj, theirs.fc2_latent_proj
        self.n_groups, self.groups_kept = hf.n_group, hf.topk_group
        self.sums_to_one, self.factor = hf.norm_topk_prob, hf.routed_scaling_factor

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits.sigmoid()
        wanted = (scores + self.scorer.e_score_correction_bias).unflatten(-1, (self.n_groups, -1))
        groups = wanted.topk(2, -1).values.sum(-1).topk(self.groups_kept, -1).indices  # a group's two best speak for it
        kept = torch.zeros_like(wanted[..., 0], dtype=torch.bool).scatter(-1, groups, True)
        wanted = wanted.masked_fill(~kept[..., None], float("-inf")).flatten(-2)
        index = wanted.topk(self.top_k, -1).indices
        weights = scores.gather(-1, index)
        if self.sums_to_one:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.factor, index

    def site_table(self) -> list[SiteInfo]:
        shared = self.shared_experts.site_table()
        renamed = (i._replace(name="shared_" + i.name, meaning=f"shared expert: {i.meaning}") for i in shared)
        return [*super().site_table(), *renamed]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        said = self.fc2_latent_proj(self.ask(u, self.fc1_latent_proj(u), run, prefix))
        return said + self.shared_experts(u, run, prefix + "shared_")


class FeedForwardBlock(AdaptedBlock):
    """residual += feed_forward(norm(residual)): one part, without a state, where other blocks have their mixer."""

    def __init__(self, width: int, *, norm: Part, part: Part) -> None:
        super().__init__(width, norm=norm, mixer=part)

    @property
    def part(self) -> FeedForward:
        found: nn.Module = self.mixer
        assert isinstance(found, FeedForward)
        return found

    def mixer_sites(self) -> list[SiteInfo]:
        return self.part.site_table()

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        return ()

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return {}

    def mix(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        return self.part(u, run, prefix), {} if need_state else None


@adapter("nemotron_h")
class NemotronH(AdaptedModel):
    """Below `mixer.` the sites of Mamba-2, of attention, `hidden`, or router and expert_out, layer by layer."""

    hf_class = "NemotronHForCausalLM"
    embedding_attribute = "embeddings"
    final_norm_attribute = "norm_f"
    base_name = "backbone"
    can_tie = False
    ignored_weights = (r"^mtp\.",)

    @classmethod
    def check(cls, hf: Any) -> None:
        require_silu(hf, "mamba_hidden_act")
        require_multiple(hf, "num_attention_heads", "num_key_value_heads")
        require_multiple(hf, "mamba_num_heads", "n_groups")
        if "moe" in hf.layers_block_type:
            require_at_most(hf, "num_experts_per_tok", "n_routed_experts")
            require_at_most(hf, "topk_group", "n_group")
            require_multiple(hf, "n_routed_experts", "n_group")

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        d, first, inner = hf.hidden_size, Part("norm", norm(layer.norm)), layer.mixer
        if layer.block_type == "linear_attention":
            return AdaptedBlock(d, norm=first, mixer=Part("mixer", AdaptedMamba2(inner)))
        if layer.block_type == "full_attention":
            return AdaptedBlock(d, norm=first, mixer=Part("mixer", SeparateAttention(inner)))
        if layer.block_type == "moe":
            return FeedForwardBlock(d, norm=first, part=Part("mixer", NemotronMixture(inner, hf)))
        up, down = Part("up_proj", inner.up_proj), Part("down_proj", inner.down_proj)
        mlp = PlainMlp(up, down, inner.act_fn, inner.up_proj.out_features)
        return FeedForwardBlock(d, norm=first, part=Part("mixer", mlp))
