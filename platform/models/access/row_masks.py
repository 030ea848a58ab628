"""Where an edit acts in each row of a batch: masks (1 or B, W) over the real tokens of a text, counted from its start.

Unlike a list of positions, a mask may name other tokens in every row, and a row may have none of them. Entry (i, t) is
token t of text i of the batch at its beginning, whatever the padding, in whichever call and phase that token is read;
what comes after W tokens is masked in or out as a whole (`beyond`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError

if TYPE_CHECKING:
    from .run import Run


def checked_mask(who: str, where: object, beyond: object, positions: Sequence[int] | None) -> Tensor | None:
    """`where` as bool (1 or B, W), None as None. Raises UsageError where it is no mask, or masks everything out."""
    if not isinstance(beyond, bool):
        raise UsageError(f"{who}: beyond is True or False, not {beyond!r}")
    if where is None:
        if beyond:
            raise UsageError(f"{who}: beyond says what comes after a mask, and there is none: give where=")
        return None
    if positions is not None:
        raise UsageError(f"{who}: positions and where= exclude each other: put the positions into the mask")
    if not isinstance(where, Tensor) or where.dtype != torch.bool or where.ndim not in (1, 2) or not where.numel():
        found = f"{where.dtype} {tuple(where.shape)}" if isinstance(where, Tensor) else type(where).__name__
        raise UsageError(f"{who}: where is a bool tensor (W,), (1, W) or (B, W), not {found}")
    if not beyond and not bool(where.any()):
        raise UsageError(f"{who}: the mask is False everywhere and beyond is False, so that it never acts: drop it")
    return where if where.ndim == 2 else where[None]


def of_batch(who: str, mask: Tensor, rows: int, index: Tensor | None) -> Tensor:
    """The mask (1 or `rows`, W) of a call. index (rows,) or None: which rows of the batch at its beginning these are.

    Raises UsageError where the mask is one of another batch.
    """
    if len(mask) == 1:
        return mask
    if index is not None and int(index.max()) < len(mask):
        return mask.index_select(0, index.to(mask.device))
    if index is not None or len(mask) != rows:
        raise UsageError(f"{who}: the mask has {len(mask)} rows, which does not fit a batch of {rows}")
    return mask


def acts_at(mask: Tensor, beyond: bool, positions: Tensor) -> Tensor:
    """Whether the mask (1 or B, W) is True at absolute `positions` (B, P), none of them negative."""
    width = mask.shape[1]
    inside = mask.expand(len(positions), -1).gather(1, positions.clamp(0, width - 1))
    return torch.where(positions < width, inside, beyond)


def acts_in_call(who: str, mask: Tensor, beyond: bool, run: Run, columns: Tensor) -> Tensor:
    """Whether the mask is True at packed `columns` (B, P) of a call. Raises UsageError as `of_batch`."""
    rows = of_batch(who, mask.to(columns.device), len(columns), run.rows)
    return acts_at(rows, beyond, columns + run.offset[:, None])


def check_reach(
    who: str, mask: Tensor, beyond: bool, phase: str, before: Sequence[int], lengths: Sequence[int], new: int
) -> None:
    """Raise UsageError where no text that is generated can have a token of the mask in the phase, or it is of another
    batch. before, lengths: of the prompts, in tokens; new: how many tokens follow at most."""
    rows = of_batch(who, mask, len(lengths), None)
    for i, (start, length) in enumerate(zip(before, lengths, strict=True)):
        end = start + length
        low, high = (end if phase == "decode" else start), (end if phase == "prefill" else end + new)
        if bool(rows[min(i, len(rows) - 1), low:high].any()) or (beyond and high > max(low, mask.shape[1])):
            return
    raise UsageError(f"{who}: no prompt has a token that the mask names, and none of {new} new tokens can be one")
