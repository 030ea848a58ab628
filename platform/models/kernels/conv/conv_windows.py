"""The windows of a causal convolution: the last inputs that later steps still see, after any tokens of a call.

Promises: copies, no arithmetic; inputs from before the document of the token in question are zero, as the convolution
treats them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def windows_after(u: Tensor, past: Tensor, rows: Tensor, times: Tensor, reset: Tensor | None) -> Tensor:
    """The windows (M,E,W), oldest first, after the tokens `times` (M), -1 for before the call, of the sequences `rows`
    (M).

    u (B,T,E) inputs of this call; past (B,E,W) those before it; reset (B,T) True where a document starts, or None.
    """
    reach = past.shape[2]
    joined = torch.cat([past.transpose(1, 2).to(u.dtype), u], 1)  # joined[:, j] is the input of step j - reach
    index = times[:, None] + 1 + torch.arange(reach, device=u.device)  # (M, W)
    window = joined[rows[:, None], index]
    if reset is not None:
        document = torch.nn.functional.pad(reset.long().cumsum(1), (reach, 0))
        here = document[rows, times + reach]
        window = window.masked_fill((document[rows[:, None], index] != here[:, None])[..., None], 0)
    return window.transpose(1, 2)


def last_windows(u: Tensor, past: Tensor | None, reset: Tensor | None, reach: int) -> Tensor:
    """`windows_after` the last token of every sequence, (B,E,reach), without joining all inputs; past may be None for
    zeros."""
    kept = u[:, max(0, u.shape[1] - reach) :].transpose(1, 2)
    missing = reach - kept.shape[2]
    if missing:
        before = kept.new_zeros(*kept.shape[:2], missing) if past is None else past[..., past.shape[2] - missing :]
        kept = torch.cat((before, kept), 2)
    if reset is not None:
        document = torch.nn.functional.pad(reset.cumsum(1), (reach, 0))
        old = document[:, document.shape[1] - reach :] != document[:, -1:]
        kept = kept.masked_fill(old[:, None, :], 0.0)
    return kept
