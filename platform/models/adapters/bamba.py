"""Bamba (IBM, Princeton, CMU and UIUC, 2024): Mamba-2 layers, a few attention layers, and a gated MLP in each."""

from __future__ import annotations

from typing import Any

from ...core.errors import InputError
from .adapter import adapter
from .attention import Rotation, SeparateAttention
from .base import AdaptedBlock, AdaptedModel, Part, require_silu, usual_parts
from .feed_forward import GatedUnit
from .ssm import AdaptedMamba2
from .value_checks import require_multiple, require_token_below


@adapter("bamba")
class Bamba(AdaptedModel):
    """Sites of Mamba-2 or of attention below `mixer.`, layer by layer; mlp.hidden in all."""

    hf_class = "BambaForCausalLM"

    @classmethod
    def check(cls, hf: Any) -> None:
        require_silu(hf)
        require_multiple(hf, "num_attention_heads", "num_key_value_heads")
        require_multiple(hf, "mamba_n_heads", "mamba_n_groups")
        require_token_below(hf, "pad_token_id")
        wrong = [i for i in hf.attn_layer_indices or () if i >= hf.num_hidden_layers]
        if wrong:
            raise InputError(f"attn_layer_indices names block {wrong[0]} of num_hidden_layers {hf.num_hidden_layers}")
        Rotation.check(hf)

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        from transformers.models.bamba.modeling_bamba import BambaRotaryEmbedding

        if layer.block_type == "linear_attention":
            mixer = Part("mamba", AdaptedMamba2(layer.mamba))
        else:
            mixer = Part("self_attn", SeparateAttention(layer.self_attn, Rotation(BambaRotaryEmbedding, hf)))
        return AdaptedBlock(hf.hidden_size, **usual_parts(layer, mixer, GatedUnit(layer.feed_forward)))
