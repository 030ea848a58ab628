"""Causal attention with rotary positions and grouped queries, as pure functions, and the records that decoding keeps.

    z_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(P)) v_s          (Vaswani et al., arXiv 1706.03762)
    q, k turned by position: pairs (i, i + P/2) by the angle t base^(-2 i / P)       (RoPE, Su et al., arXiv 2104.09864)

Query head h reads key and value head h // (H / G): grouped queries (Ainslie et al., arXiv 2305.13245). Positions count
within a document and start at 0. Keys are recorded after they are turned, so a decode step turns one key; the dot
product depends on the difference of two positions only, and the record's place in memory does not matter.

What a token may see is a boolean mask, never a large negative number: weight and gradient of what it must not see are
exactly zero. Shapes: B batch, T time, S earlier tokens, H query heads, G key heads, P head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access.run import Run
from ..mixer import LayerState
from .norms import wide
from .past import extend, tokens_seen

BLOCK = 512  # queries at once: a long text needs a mask and scores of BLOCK rows, and skips the keys after them


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x (B, T, H, P) turned by its positions (B, T); P must be even. In float32 (float64 for float64), returned as x.

    Angles are taken in float64: at position 30000 float32 would be off by a thousandth of a turn.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = positions.to(torch.float64)[..., None, None] * frequency
    cos, sin = angle.cos().to(wide(x.dtype)), angle.sin().to(wide(x.dtype))
    first, second = x[..., :half].to(cos.dtype), x[..., half:].to(cos.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def documents(run: Run) -> Tensor:
    """The number of each token's document (B, T): 0 for the one that the state continues, then counted by resets."""
    if run.reset is None:
        return torch.zeros(len(run.lengths), run.width, dtype=torch.long, device=run.lengths.device)
    return run.reset.long().cumsum(1)


def document_positions(run: Run, seen: Tensor) -> Tensor:
    """Position (B, T) of each token in its document. seen (B,): tokens of the carried document before this call."""
    column = torch.arange(run.width, device=seen.device).expand(len(seen), -1)
    first = column + seen.to(torch.long)[:, None]
    if run.reset is None:
        return first
    start = torch.where(run.reset, column, -1).cummax(1).values
    return torch.where(start < 0, first, column - start)


def visible(
    queries: slice, document: Tensor | None, seen: Tensor | None, recorded: int, device: torch.device
) -> Tensor:
    """Which keys a block of queries may see: (B or 1, block, recorded + queries.stop), earlier tokens first.

    document (B, T) numbers the documents of the call's tokens, None if there is one; of the `recorded` columns the last
    seen (B,) are tokens, of document 0. Padding after a row's last token is later than every real query.
    """
    column = torch.arange(queries.start, queries.stop, device=device)
    new = (torch.arange(queries.stop, device=device) <= column[:, None])[None]
    if document is not None:
        new = new & (document[:, queries, None] == document[:, None, : queries.stop])
    if not recorded:
        return new
    assert seen is not None
    old = (torch.arange(recorded, device=device) >= recorded - seen[:, None])[:, None]
    old = old & (document[:, queries, None] == 0) if document is not None else old.expand(-1, len(column), -1)
    return torch.cat([old, new.expand(len(old), -1, -1)], -1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    document: Tensor | None = None,
    seen: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """z (B, T, H, P) of queries q (B, T, H, P) over keys and values k, v (B, S + T, G, P), the last T those of the
    queries' own tokens. document, seen: see `visible`. scale: factor of the scores, 1 / sqrt(P) if None."""
    recorded = k.shape[1] - q.shape[1]
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    found = []
    for first in range(0, q.shape[2], BLOCK):
        block = slice(first, min(first + BLOCK, q.shape[2]))
        mask = visible(block, document, seen, recorded, q.device)[:, None]
        end = recorded + block.stop
        part = (q[:, :, block], k[:, :, :end], v[:, :, :end])
        found.append(F.scaled_dot_product_attention(*part, attn_mask=mask, scale=scale, enable_gqa=grouped))
    return torch.cat(found, 2).transpose(1, 2)


#: turn(x, positions): x (B, T, H, P) turned by its positions (B, T)
Turn = Callable[[Tensor, Tensor], Tensor]


class Records(NamedTuple):
    """What attention keeps of earlier tokens (`past`): turned keys and values (B, G P, S), and how many each row has
    seen (B,)."""

    keys: Tensor
    values: Tensor
    seen: Tensor

    @classmethod
    def none(cls, batch: int, width: int, dtype: torch.dtype, device: torch.device) -> Records:
        """No keys, no values, no tokens seen; width: G P."""
        empty = torch.zeros(batch, width, 0, dtype=dtype, device=device)
        return cls(empty, empty, torch.zeros(batch, dtype=wide(dtype), device=device))

    @classmethod
    def of(cls, state: LayerState) -> Records:
        """Those that a layer's state holds; inverse of `as_state`."""
        return cls(state["past_k"], state["past_v"], state["seen"])

    def as_state(self) -> LayerState:
        """Under their names in a layer's state."""
        return {"past_k": self.keys, "past_v": self.values, "seen": self.seen}


def recorded_attention(
    run: Run,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: tuple[int, int],
    turn: Turn | float | None,
    past: Records | None,
    need_records: bool,
    scale: float | None = None,
) -> tuple[Tensor, Records | None]:
    """Attention of this call's tokens over themselves and `past`: z (B, T, H P), and the records after the call.

    q (B, T, H P); k, v (B, T, G P), before they are turned. heads: (H, G). turn: how q and k are turned by position, a
    base of rotary ones, or None where positions enter otherwise. scale: of the scores, 1 / sqrt(P) if None.
    """
    H, G = heads
    P = q.shape[-1] // H
    past = Records.none(len(k), k.shape[2], k.dtype, k.device) if past is None else past
    queries, turned = q.unflatten(-1, (H, P)), k.unflatten(-1, (G, P))
    if turn is not None:
        turn = turn if callable(turn) else partial(rotate, base=turn)
        positions = document_positions(run, past.seen)
        queries, turned = turn(queries, positions), turn(turned, positions)
    turned = turned.flatten(2)
    keys = torch.cat([past.keys.transpose(1, 2).to(k.dtype), turned], 1).unflatten(-1, (G, P))
    values = torch.cat([past.values.transpose(1, 2).to(v.dtype), v], 1).unflatten(-1, (G, P))
    document = None if run.reset is None else documents(run)
    z = attend(queries, keys, values, document, past.seen, scale).flatten(2)
    if not need_records:
        return z, None
    seen = tokens_seen(run, past.seen)
    return z, Records(extend(run, past.keys, turned, seen), extend(run, past.values, v, seen), seen)
