"""Records of past inputs that grow with the text: keys and values of attention, gated inputs of a long convolution.

A record is a state tensor (B, E, S) whose name starts with "past_": the inputs of the last S tokens of each row's
current document, oldest first, the latest at the end, zeros in front where a row has seen fewer. Aligned so, a step
appends one column for every row, and rows of any lengths share a batch.

Beside the records stands "seen" (B,): how many tokens of its current document each row has seen, which tells zeros in
front from tokens. It is float32 (or float64), as every tensor of a state is floating point; exact below 2^24.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access.run import Run
from ..access.states import windows

PAST = "past_"


def lengthen(record: Tensor, width: int) -> Tensor:
    """`record` (B, E, S) with zeros in front to `width` columns."""
    return F.pad(record, (width - record.shape[-1], 0))


def tokens_seen(run: Run, seen: Tensor) -> Tensor:
    """Tokens of its document that each row has seen after this call. seen (B,): before it."""
    if run.reset is None:
        return seen + run.lengths.to(seen.dtype)
    column = torch.arange(run.width, device=seen.device)
    real = column < run.lengths[:, None]
    start = torch.where(run.reset & real, column, -1).amax(1)  # where the last document of the row begins
    return torch.where(start < 0, seen + run.lengths, run.lengths - start).to(seen.dtype)


def extend(run: Run, record: Tensor, new: Tensor, seen_after: Tensor, limit: int | None = None) -> Tensor:
    """The record after this call: `new` (B, T, E), packed, appended to `record` (B, E, S).

    seen_after (B,): `tokens_seen`. limit: columns to keep at most; None keeps all of the current document.
    """
    longest = int(seen_after.max()) if len(seen_after) else 0
    width = longest if limit is None else min(longest, limit)
    if run.keep is None and run.reset is None:  # every row grows by the same number of tokens
        joined = torch.cat([record.to(new.dtype), new.transpose(1, 2)], 2)
        return joined[..., joined.shape[2] - width :] if joined.shape[2] >= width else lengthen(joined, width)
    history = lengthen(record, max(width, record.shape[2]))[..., -width:] if width else record[..., :0]
    if width == 0:
        return new.new_zeros(len(new), new.shape[2], 0)
    return windows(new, history, (run.lengths - 1)[:, None], run.reset)[:, 0]
