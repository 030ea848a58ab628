"""Causal attention to the few best keys: each token attends to the k_t highest scores among the tokens up to itself.

    k_t = max(1, ceil((1 - sparsity) n_t)),   n_t: tokens of the document up to and including this one

The mask comes before the choice, so that no future token takes one of the k_t places. Scores that are exactly equal
are taken latest token first; so the choice never depends on the sorting algorithm. The choice itself has no gradient.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from ...parts import attention

# Queries handled at once: the scores of a long text would otherwise need memory for its length squared.
QUERY_BLOCK = 512


def kept_keys(n: Tensor, sparsity: float) -> Tensor:
    """k_t of integer n: the rule in rational arithmetic, because (1 - 0.95) * 20 is above 1 in floating point."""
    share = 1 - Fraction(str(sparsity)).limit_denominator(10**6)
    return ((n * share.numerator + share.denominator - 1) // share.denominator).clamp(min=1)


def visible_keys(rows: int, width: int, past: int, seen: Tensor, reset: Tensor | None, like: Tensor) -> Tensor:
    """Which keys (B, T, past + T) each query may see: earlier ones and its own, of its document.

    past: columns of the record before this call, right-aligned, of which the last `seen` (B,) are tokens. reset (B, T):
    True where a document starts. like: any tensor on the device.
    """
    document = None if reset is None else reset.long().cumsum(1)
    return attention.visible(slice(0, width), document, seen, past, like.device).expand(rows, -1, -1)


def choose(scores: Tensor, visible: Tensor, counts: Tensor) -> Tensor:
    """The keys that are attended to, (B, H, T, K) bool: the `counts` (B, T) best of the visible (B, T, K) ones.

    Exactly counts[b, t] of every row are True; where scores are equal, the latest.
    """
    scores = scores.detach().masked_fill(~visible[:, None], float("-inf"))
    if not counts.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    counts = counts[:, None].expand(scores.shape[:3])
    best = scores.topk(int(counts.max()), dim=-1).values
    threshold = best.gather(-1, counts[..., None] - 1)
    above, equal = scores > threshold, scores == threshold
    places = counts - above.sum(-1)
    if bool((equal.sum(-1) == places).all()):
        return above | equal
    from_the_end = equal.flip(-1).cumsum(-1).flip(-1)
    return above | (equal & (from_the_end <= places[..., None]))


def attention_weights(q: Tensor, k: Tensor, visible: Tensor, sparsity: float) -> Tensor:
    """Weights (B, H, T, K) of queries q (B, H, T, P) on keys k (B, H, P, K): softmax over the chosen, 0 elsewhere."""
    scores = torch.matmul(q, k) * q.shape[-1] ** -0.5
    chosen = choose(scores, visible, kept_keys(visible.sum(-1), sparsity))
    return torch.softmax(scores.masked_fill(~chosen, float("-inf")), -1)


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, sparsity: float) -> Tensor:
    """Attention read-outs (B, H, T, P); q (B, H, T, P); k, v (B, H, P, K); visible (B, T, K)."""
    blocks = [
        torch.matmul(attention_weights(q[:, :, part], k, visible[:, part], sparsity), v.transpose(2, 3))
        for part in (slice(at, at + QUERY_BLOCK) for at in range(0, q.shape[2], QUERY_BLOCK))
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)
