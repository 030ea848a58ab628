"""The attention mixers of adapted models: causal softmax attention with sites for queries, keys, values and heads.

    q, k, v = project(u);   z_t = sum_{s <= t} softmax_s(scale rot(q_t) . rot(k_s)) v_s;   out = output(z)

State: the keys (rotated) and values of each row's current document as growing records (`past`), and how many tokens
they hold. Positions restart where a packed document starts. The site `q` and `k` are before the rotation, where a
channel means the same at every position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import InputError, UsageError
from ..access.run import Run
from ..mixer import LayerState, Mixer, SiteInfo
from ..parts.attention import Records, recorded_attention
from ..parts.norms import wide

# what depends on the position alone; others ("dynamic", "longrope") change with the length of the text
_STATIC_ROTATIONS = ("default", "linear", "llama3", "yarn")


class Rotation:
    """Rotary positions as transformers computes them from a configuration: pairs (i, i + R/2) of the first R channels.

    rotary: transformers' class for this model. The frequencies are its own, in float32 as it keeps them; angles are
    float32 (float64 for float64).
    """

    @staticmethod
    def check(hf: Any) -> None:
        """Raise InputError for a kind that depends on the length of the text."""
        kind = hf.rope_parameters["rope_type"]
        if kind not in _STATIC_ROTATIONS:
            raise InputError(
                f"rope_type {kind!r} is not supported: it depends on the length of the text, so that a cached key "
                f"would be wrong later; supported are {', '.join(_STATIC_ROTATIONS)}"
            )

    def __init__(self, rotary: type[nn.Module], hf: Any) -> None:
        with torch.device("cpu"):  # computed, not loaded: on device "meta" it would be lost
            made: Any = rotary(hf)
        self.frequency: Tensor = made.inv_freq.to(torch.float32)
        self.scale = float(made.attention_scaling)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, H, P) rotated by its positions (B, T)."""
        dtype = wide(x.dtype)
        angle = positions[..., None, None].to(dtype) * self.frequency.to(x.device, dtype)
        cos, sin = (angle.cos() * self.scale).to(x.dtype), (angle.sin() * self.scale).to(x.dtype)
        half = self.frequency.numel()
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


class CausalAttention(Mixer):
    """Base of the attention mixers. Shapes: u (B, T, d); q, z (B, T, H P); k, v (B, T, G P) for G key heads.

    heads, kv_heads, head_dim: H, G, P. scaling: of the scores. rotation: None where positions enter otherwise.
    """

    def __init__(
        self, config: Any, *, heads: int, kv_heads: int, head_dim: int, scaling: float, rotation: Rotation | None = None
    ) -> None:
        super().__init__(config)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scaling, self.rotation = scaling, rotation

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H P), keys and values (B, T, G P) of u, each contiguous."""
        raise UsageError(f"{type(self).__name__} does not say what queries, keys and values are")

    def output(self, z: Tensor) -> Tensor:
        """What the heads' outputs z (B, T, H P) add to the residual stream."""
        raise UsageError(f"{type(self).__name__} defines no output projection")

    def context_operations(self, context: int) -> int:
        """Operations of a token as the last of `context` ones, beside products with parameters: scores and read-out."""
        return 4 * self.heads * self.head_dim * context

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return Records.none(batch, self.kv_heads * self.head_dim, dtype, device).as_state()

    def site_table(self) -> list[SiteInfo]:
        queries, keys = (self.heads * self.head_dim,), (self.kv_heads * self.head_dim,)
        turned = ", before rotary positions" if self.rotation is not None else ""
        return [
            SiteInfo("q", queries, f"queries, head after head{turned}"),
            SiteInfo("k", keys, f"keys, head after head{turned}"),
            SiteInfo("v", keys, "values, head after head"),
            SiteInfo("z", queries, "the heads' outputs, the input of the output projection"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        q, k, v = self.project(u)
        q, k, v = run.site(prefix + "q", q), run.site(prefix + "k", k), run.site(prefix + "v", v)
        past = None if state is None else Records.of(state)
        heads = (self.heads, self.kv_heads)
        z, after = recorded_attention(run, q, k, v, heads, self.rotation, past, need_state, self.scaling)
        out = self.output(run.site(prefix + "z", z.contiguous()))
        return out, None if after is None else after.as_state()


class SeparateAttention(CausalAttention):
    """Attention with q_proj, k_proj, v_proj and o_proj, as in Llama; heads may share keys and values."""

    def __init__(self, theirs: Any, rotation: Rotation | None = None) -> None:
        c, P = theirs.config, theirs.head_dim
        super().__init__(
            c, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, head_dim=P, scaling=theirs.scaling,
            rotation=rotation,
        )  # fmt: skip
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(u), self.k_proj(u), self.v_proj(u)

    def output(self, z: Tensor) -> Tensor:
        return self.o_proj(z)
