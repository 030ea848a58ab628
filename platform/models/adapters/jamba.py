"""Jamba (Lieber et al., arXiv 2403.19887): Mamba layers with normed Delta, B and C, attention without positions, and a
gated MLP or a mixture of them in each layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from .adapter import adapter
from .attention import SeparateAttention
from .base import AdaptedBlock, AdaptedModel, Part, require_silu, usual_parts
from .experts import GatedExpert, MixtureOfExperts
from .feed_forward import GatedUnit
from .ssm import AdaptedMamba
from .value_checks import require_at_most, require_multiple, require_token_below


class JambaExperts(MixtureOfExperts):
    """The k most probable experts, each with its probability, which are not scaled to add up to one."""

    keep_float32: ClassVar[frozenset[str]] = frozenset({"router"})

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, index = logits.softmax(-1).topk(self.top_k, -1)
        return weights, index


@adapter("jamba")
class Jamba(AdaptedModel):
    """Sites of Mamba or of attention below `mixer.`, layer by layer; mlp.hidden, or router and expert_out."""

    hf_class = "JambaForCausalLM"

    @classmethod
    def check(cls, hf: Any) -> None:
        require_silu(hf)
        require_multiple(hf, "num_attention_heads", "num_key_value_heads")
        require_at_most(hf, "num_experts_per_tok", "num_experts")
        require_token_below(hf, "pad_token_id")

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        given = layer.feed_forward
        if hf.layers_num_experts[index] > 1:
            first, second = given.experts.gate_up_proj, given.experts.down_proj
            experts = [GatedExpert(a, b, given.experts.act_fn) for a, b in zip(first, second, strict=True)]
            feed_forward = JambaExperts(Part("router", given.router), experts, given.top_k)
        else:
            feed_forward = GatedUnit(given)
        if hf.layers_block_type[index] == "attention":
            mixer = Part("self_attn", SeparateAttention(layer.self_attn))
        else:
            mixer = Part("mamba", AdaptedMamba(layer.mamba))
        return AdaptedBlock(hf.hidden_size, **usual_parts(layer, mixer, feed_forward))
