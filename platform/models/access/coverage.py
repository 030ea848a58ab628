"""Whether every text has a position that an edit or a capture names; the one rule for both, in a batch and alone.

A text must have at least one of the named positions. One that has none is an error, whether it stands by itself or
beside longer ones; so is one whose positions all come in another phase: position 3 of a prompt for a "decode" edit,
position 9 of a text for a "prefill" edit of its first 5 tokens. Of the others an edit leaves out what a text lacks, and
a capture shows NaN there. Generation refuses before it computes anything, other blocks when they end.

A text that is generated may end before a position that it could have reached: there the edit has nothing to do and the
capture nothing to show, and neither is an error; in the same way a "decode" edit is content with texts that end at
their first token.

An edit with a mask (`row_masks`) may leave out any row; it is refused before generation where it can act in none of
them, and raises at the end of any other block in which it has never acted.

A position that is named twice, such as `[7,-1]` in a text of 8 tokens, is one position: an edit acts there once, as its
first mention says, and a capture shows it at both places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError
from .row_masks import check_reach

if TYPE_CHECKING:
    from ..model import LanguageModel
    from .run import Run
    from .sites import Selection


class Coverage:
    """Which named positions the texts of a block have had. who: "edit ..." or "capture of ..." in messages."""

    def __init__(self, who: str, selection: Selection, phase: str = "both") -> None:
        self.who, self.phase = who, phase
        self.wanted = selection.positions
        self.lacking: str | None = None
        self.suspended = False
        self._met: Tensor | None = None  # (B, P), of the texts that are being read

    def follow(self, run: Run) -> None:
        """Note what the forward pass `run` has; the text goes on where it continues a batch of as many rows."""
        if self.wanted is None or self.suspended:
            return
        valid = run.positions(self.wanted)[1]
        if self.phase not in ("both", run.phase):
            valid = torch.zeros_like(valid)
        rows = run.rows
        if self._met is not None and run.continues and _follows(self._met, valid, rows):
            self._met = self._met.clone()
            self._met[slice(None) if rows is None else rows] |= valid
            return
        self.close()
        self._met = valid

    def close(self) -> None:
        """The texts that were being read are over: note what they lacked."""
        lacking = [] if self._met is None else (~self._met.any(1)).nonzero()[:, 0].tolist()
        if self._met is not None and lacking and self.lacking is None:
            self.lacking = (
                f"{self.who}: some rows are too short to have this position, row {lacking[0]} of {len(self._met)} "
                "first; put them into a batch of their own, without it"
            )
        self._met = None

    def check_prompts(self, before: Sequence[int], lengths: Sequence[int], max_new_tokens: int) -> None:
        """Raise UsageError where a prompt of `lengths` tokens, behind `before` others, can have no named position."""
        for i, (start, length) in enumerate(zip(before, lengths, strict=True)):
            end = start + length
            low = end if self.phase == "decode" else start
            high = end if self.phase == "prefill" else end + max_new_tokens
            absolute = [p + end if p < 0 else p for p in self.wanted or ()]
            if absolute and not any(low <= p < high for p in absolute):
                raise UsageError(
                    f"{self.who}: prompt {i} of {length} tokens cannot have this position: "
                    f"{_where(self.phase, start, end, max_new_tokens)}"
                )


def _where(phase: str, start: int, end: int, new: int) -> str:
    if phase == "prefill":
        return f"its prefill reads {start} to {end - 1}"
    if phase == "decode":
        return f"{new} new tokens have {end} to {end + new - 1} at most"
    return f"it starts at {start} and with {new} new tokens ends at {end + new - 1} at most"


def _follows(met: Tensor, valid: Tensor, rows: Tensor | None) -> bool:
    return len(met) == len(valid) if rows is None else int(rows.max()) < len(met)


@contextmanager
def generating(
    model: LanguageModel, before: Sequence[int], lengths: Sequence[int], max_new_tokens: int
) -> Iterator[None]:
    """Inside the block, the edits and captures in force act on texts that are generated from prompts of `lengths`.

    Raises UsageError before anything is computed for positions that cannot come.
    """
    for applied in model.edits:
        edit = applied.edit
        if edit.where is not None:
            who = f"edit {edit}"
            check_reach(who, edit.where.cpu(), edit.beyond, edit.phase, before, lengths, max_new_tokens)
    with whole_texts(model, before, lengths, max_new_tokens):
        for recorder in model.captures:
            recorder.begin_texts()
        yield
    for applied in model.edits:
        edit = applied.edit
        applied.excused |= edit.phase == "decode" or edit.selection.positions is not None or edit.where is not None
    for recorder in model.captures:
        recorder.end_texts()


@contextmanager
def whole_texts(
    model: LanguageModel, before: Sequence[int], lengths: Sequence[int], max_new_tokens: int = 0
) -> Iterator[None]:
    """Inside the block, texts of `lengths` behind `before` other tokens are read in pieces: positions are looked at
    here, for the texts as a whole. Raises UsageError for positions that cannot come."""
    coverages = [a.coverage for a in model.edits] + [c for r in model.captures for c in r.coverages]
    for coverage in coverages:
        coverage.check_prompts(before, lengths, max_new_tokens)
    for coverage in coverages:
        coverage.close()
        coverage.suspended = True
    try:
        yield
    finally:
        for coverage in coverages:
            coverage.suspended = False


def first_mentions(columns: Tensor, valid: Tensor) -> Tensor:
    """`valid` (B, P) without the entries whose column (B, P) an earlier valid entry of the row names already."""
    if columns.shape[1] < 2:
        return valid
    same = (columns[:, :, None] == columns[:, None, :]) & valid[:, None, :]  # (B, later, earlier)
    return valid & ~same.tril(-1).any(2)
