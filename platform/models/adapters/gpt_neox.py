"""GPT-NeoX (Black et al., arXiv 2204.06745), the architecture of Pythia: rotary positions, parallel residual.

With `use_parallel_residual`, as all published models have it, attention and MLP read the same residual stream and both
add to it: there is no stream between them, so that the blocks have no site `resid_mid`, and an edit of `mixer_out`
does not change `mlp_in` of the same block. Without it the blocks are those of GPT-2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .adapter import adapter
from .attention import CausalAttention, Rotation
from .base import AdaptedBlock, AdaptedModel, ParallelBlock, Part, norm
from .feed_forward import PlainMlp


class GptNeoxAttention(CausalAttention):
    """Query, key and value of a head lie side by side in the output of one projection."""

    def __init__(self, theirs: Any, rotation: Rotation) -> None:
        heads, P = theirs.config.num_attention_heads, theirs.head_size
        super().__init__(
            theirs.config, heads=heads, kv_heads=heads, head_dim=P, scaling=theirs.scaling, rotation=rotation
        )
        self.query_key_value, self.dense = theirs.query_key_value, theirs.dense

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.query_key_value(u).unflatten(-1, (self.heads, 3, self.head_dim))
        q, k, v = (part.flatten(2) for part in heads.unbind(3))
        return q, k, v

    def output(self, z: Tensor) -> Tensor:
        return self.dense(z)


@adapter("gpt_neox")
class GptNeox(AdaptedModel):
    """Sites as everywhere, with mixer.q, k, v and z, and mlp.hidden."""

    arch = "transformer"
    hf_class = "GPTNeoXForCausalLM"
    base_attribute = base_name = "gpt_neox"
    embedding_attribute = "embed_in"
    final_norm_attribute = "final_layer_norm"
    head_name = "embed_out"
    # tables of the causal mask, which old files hold beside the weights
    ignored_weights = (r"\.attention\.(bias|masked_bias)$",)

    @classmethod
    def check(cls, hf: Any) -> None:
        Rotation.check(hf)

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

        mlp = layer.mlp
        up, down = Part("dense_h_to_4h", mlp.dense_h_to_4h), Part("dense_4h_to_h", mlp.dense_4h_to_h)
        kind = ParallelBlock if hf.use_parallel_residual else AdaptedBlock
        return kind(
            hf.hidden_size,
            norm=Part("input_layernorm", norm(layer.input_layernorm)),
            mixer=Part("attention", GptNeoxAttention(layer.attention, Rotation(GPTNeoXRotaryEmbedding, hf))),
            norm_2=Part("post_attention_layernorm", norm(layer.post_attention_layernorm)),
            feed_forward=Part("mlp", PlainMlp(up, down, mlp.act, hf.intermediate_size)),
        )
