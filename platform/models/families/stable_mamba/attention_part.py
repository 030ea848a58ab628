"""Top-k attention as a part of a mixer, with keys and values that are carried from call to call.

    Attn(y) = sum of the values v_s over the few best s <= t, weighted by softmax(q_t . k_s / sqrt(P))
    q, k = qk(RMSNorm(y)), v = value(y), in heads of P channels;  y + sigmoid(g) Attn(y) is the answer

The norm is for the comparison only: values keep the loudness of y, so that what is read is no louder than y itself.
The choice is made by `stable.sparse_attention`. There is no position code: what it reads has been through a convolution
and a recurrence, which know the order. The state grows by one column per token; see `past`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...access.run import Run
from ...mixer import LayerState, SiteInfo
from ...parts.attention import Records
from ...parts.norms import RMSNorm
from ...parts.past import extend, tokens_seen
from ...parts.recurrence import reset_linear, split_linear
from .sparse_attention import kept_keys, sparse_attention, visible_keys


class SparseAttention(nn.Module):
    """y (B, T, E) -> y + sigmoid(memory_gate) Attn(y), with `sparsity` of the earlier tokens left out."""

    def __init__(self, width: int, head_dim: int, sparsity: float, norm_eps: float, bias: bool) -> None:
        super().__init__()
        self.width, self.heads, self.sparsity = width, (width // head_dim, head_dim), sparsity
        self.norm = RMSNorm(width, norm_eps)
        self.qk = nn.Linear(width, 2 * width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.memory_gate = nn.Parameter(torch.empty(1))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """PyTorch's default for the linear layers; the memory gate half open."""
        self.norm.reset()
        for layer in (self.qk, self.value):
            reset_linear(layer.weight, layer.bias, self.width, generator)
        self.memory_gate.zero_()

    def context_operations(self, context: int) -> int:
        """Operations of a token as the last of `context` ones, beside products with parameters: scores of all, and the
        read-out of those that are attended to."""
        kept = int(kept_keys(torch.tensor(context), self.sparsity))
        return 2 * self.width * (context + kept)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        """No keys, no values, no tokens seen."""
        return Records.none(batch, self.width, dtype, device).as_state()

    def site_table(self) -> list[SiteInfo]:
        """Read-out and gate."""
        return [
            SiteInfo("sparse_attn", (self.width,), "what each token reads from the few tokens it attends to"),
            SiteInfo("memory_gate", (1,), "factor on the sparse attention, in (0, 1)", constant=True),
        ]

    def forward(
        self, y: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState]:
        """The answer (B, T, E), and the new state (empty unless `need_state`)."""
        rows, width, E = y.shape
        before = Records.of(state) if state else Records.none(rows, E, y.dtype, y.device)
        q, k = split_linear(self.norm(y), self.qk, [E, E])
        new = (k, self.value(y))
        visible = visible_keys(rows, width, before.keys.shape[2], before.seen, run.reset, y)
        keys, values = (
            torch.cat([old.to(now.dtype), now.transpose(1, 2)], 2).unflatten(1, self.heads)
            for old, now in zip(before[:2], new, strict=True)
        )
        found = sparse_attention(q.unflatten(-1, self.heads).transpose(1, 2), keys, values, visible, self.sparsity)
        found = run.site(prefix + "sparse_attn", found.transpose(1, 2).flatten(2))
        weight = run.constant(prefix + "memory_gate", torch.sigmoid(self.memory_gate))
        answer = y + weight * found
        if not need_state:
            return answer, {}
        seen = tokens_seen(run, before.seen)
        past_k, past_v = (extend(run, old, now, seen) for old, now in zip(before[:2], new, strict=True))
        return answer, Records(past_k, past_v, seen).as_state()
