"""Documents packed into one row, and padding: what `reset` and `seq_idx` say about the tokens of a call.

`reset` marks the first tokens of documents. `seq_idx` names the document of every token instead, and -1 is padding:
such a token is not there. It writes nothing, no state decays at it, no window holds it, its output is 0, and what it
holds, NaN too, reaches nothing. The first document of a row goes on from the initial state, except where `reset` marks
its first token; a number that comes back after another document is a new document.

Promises: no arithmetic on what is not padding; without padding a call runs as with `reset`, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from .arguments import expect_reset, expect_shape


class Packing(NamedTuple):
    """How the tokens of a call fall into documents."""

    reset: Tensor | None
    """(B,T) True where a document starts from nothing; never at padding."""
    keep: Tensor | None
    """(B,T) False at padding; None where there is none."""

    def ends(self, batch: int, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and time of the last token of every document, row by row in the order of the text."""
        keep = torch.ones(batch, time, dtype=torch.bool, device=device) if self.keep is None else self.keep
        rows, times = keep.nonzero(as_tuple=True)
        last = torch.ones_like(rows, dtype=torch.bool)
        if len(rows):
            last[:-1] = rows[1:] != rows[:-1]
            if self.reset is not None:
                last[:-1] |= self.reset[keep][1:]
        return rows[last], times[last]

    def silence(self, tensor: Tensor) -> Tensor:
        """`tensor` (B,T,...) with 0 at padding."""
        if self.keep is None:
            return tensor
        return tensor.masked_fill(~self.keep.view(*self.keep.shape, *(1,) * (tensor.ndim - 2)), 0.0)


class Together(NamedTuple):
    """The tokens of every row moved to its front, in their order, with the padding behind them: for operations that
    reach a number of tokens back, which padding must not count among."""

    order: Tensor
    """(B,T): which token of the row stands at a place."""
    back: Tensor
    """(B,T): at which place a token of the row stands."""
    lengths: Tensor
    """(B): tokens of a row that are no padding."""

    @classmethod
    def of(cls, keep: Tensor) -> Together:
        order = torch.argsort(~keep, dim=1, stable=True)
        return cls(order, torch.argsort(order, dim=1), keep.sum(1))

    @staticmethod
    def move(tensor: Tensor, places: Tensor) -> Tensor:
        """`tensor` (B,T) or (B,T,E) with what stands at `places` (B,T)."""
        index = places if tensor.ndim == 2 else places[..., None].expand(*places.shape, tensor.shape[2])
        return tensor.gather(1, index)


def packing(call: str, reset: Tensor | None, seq_idx: Tensor | None, batch: int, time: int) -> Packing:
    """Read `reset` (B,T) bool or `seq_idx` (B,T) integers of at least -1; UsageError for both, and for other shapes,
    types and numbers."""
    expect_reset(call, reset, batch, time)
    if seq_idx is None:
        return Packing(reset, None)
    if reset is not None:
        raise UsageError(f"{call}: reset and seq_idx both say where documents start; give one of them")
    if seq_idx.is_floating_point() or seq_idx.is_complex() or seq_idx.dtype == torch.bool:
        raise UsageError(f"{call}: seq_idx has dtype {seq_idx.dtype}, expected integers")
    expect_shape(call, "seq_idx", seq_idx, (batch, time), "(batch, time)")
    if seq_idx.numel() and int(seq_idx.min()) < -1:
        raise UsageError(
            f"{call}: seq_idx holds {int(seq_idx.min())}, expected numbers of documents, or -1 for padding"
        )
    keep = seq_idx >= 0
    places = torch.arange(time, device=seq_idx.device).expand(batch, time)
    # The last token before each one that is no padding; -1 before the first.
    before = torch.where(keep, places, -1).cummax(1).values.roll(1, 1)
    before[:, 0] = -1
    other = seq_idx.gather(1, before.clamp(min=0)) != seq_idx
    return Packing(keep & (before >= 0) & other, None if bool(keep.all()) else keep)
