"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before attention and MLP, and a residual stream between.

Positions count within a document. A text that is longer than the table of positions is refused.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from ...core.errors import InputError
from ..access.run import Run
from ..parts.attention import document_positions
from ..state import ModelState
from .adapter import adapter
from .attention import CausalAttention
from .base import AdaptedBlock, AdaptedModel, Part, norm
from .feed_forward import PlainMlp
from .value_checks import require_multiple


class Gpt2Attention(CausalAttention):
    """Queries, keys and values from one projection, c_attn."""

    def __init__(self, theirs: Any) -> None:
        heads = theirs.num_heads
        super().__init__(
            theirs.config, heads=heads, kv_heads=heads, head_dim=theirs.head_dim, scaling=theirs.scaling
        )  # fmt: skip
        self.c_attn, self.c_proj = theirs.c_attn, theirs.c_proj

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.c_attn(u).split(self.heads * self.head_dim, -1)
        return q.contiguous(), k.contiguous(), v.contiguous()

    def output(self, z: Tensor) -> Tensor:
        return self.c_proj(z)


@adapter("gpt2")
class Gpt2(AdaptedModel):
    """Sites as everywhere, with mixer.q, k, v and z, and mlp.hidden; `embed` is token plus position embedding."""

    arch = "transformer"
    hf_class = "GPT2LMHeadModel"
    base_attribute = base_name = "transformer"
    embedding_attribute = "wte"
    other_embeddings = ("wpe",)
    layers_attribute = "h"
    final_norm_attribute = "ln_f"
    # tables of the causal mask, which old files hold beside the weights
    ignored_weights = (r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$",)

    @classmethod
    def check(cls, hf: Any) -> None:
        require_multiple(hf, "n_embd", "n_head")
        if hf.add_cross_attention:
            raise InputError("add_cross_attention is not supported: a decoder of another model's output")

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        mlp = layer.mlp
        up, down = Part("c_fc", mlp.c_fc), Part("c_proj", mlp.c_proj)
        return AdaptedBlock(
            hf.hidden_size,
            norm=Part("ln_1", norm(layer.ln_1)),
            mixer=Part("attn", Gpt2Attention(layer.attn)),
            norm_2=Part("ln_2", norm(layer.ln_2)),
            feed_forward=Part("mlp", PlainMlp(up, down, mlp.act, mlp.c_fc.nf)),
        )

    def _embed(self, tokens: Tensor, run: Run, state: ModelState | None) -> Tensor:
        table = cast(nn.Embedding, self._stem.get_submodule("wpe"))
        seen = run.offset.new_zeros(len(tokens)) if state is None else state.layers[0]["seen"]
        positions = document_positions(run, seen)
        real = positions if run.keep is None else positions * run.keep
        if int(real.max()) >= table.num_embeddings:
            raise InputError(
                f"model {self.name}: a text of {int(real.max()) + 1} tokens is longer than its {table.num_embeddings} "
                "positions; shorten it, or take a model without a table of positions"
            )
        return self.embedding(tokens) + table(real)
