"""Where the parts of a prompt lie among its tokens, and the masks that an edit's position word stands for.

A word such as `evidence` names other tokens in every prompt of a batch, so it becomes a mask with a row for each. What
is generated lies behind the prompt: `prompt` ends where it begins and `generated` begins there, so that reading a whole
text with its answer is steered like generating it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError, suggest

Spans = tuple[tuple[int, int], ...]

#: word -> what it names
POSITIONS = {
    "all": "every token, read or written",
    "prompt": "every token of the prompt",
    "evidence": "the tokens of the sentences that hold the answer",
    "question": "the tokens of the question",
    "last": "the last token of the prompt",
    "generated": "every token that was written, as it is read back",
}


class Layout(NamedTuple):
    """One prompt. length: its tokens. evidence, question: ranges (first, behind the last) of them; () where unknown."""

    length: int
    evidence: Spans = ()
    question: Spans = ()


class Mask(NamedTuple):
    """where (B, W) bool: at which positions of each row; beyond: whether also behind them."""

    where: Tensor
    beyond: bool


def check_positions(word: str) -> str:
    """`word` if it names positions; UsageError with the nearest where it does not."""
    if word not in POSITIONS:
        raise UsageError(f"there are no positions {word!r}; {suggest(word, POSITIONS)}")
    return word


def mask(word: str, layouts: Sequence[Layout]) -> Mask | None:
    """The mask of `word` for a batch of prompts; None where it restricts nothing.

    Raises InputError where a prompt does not have what the word names, UsageError for an unknown word.
    """
    if check_positions(word) == "all":
        return None
    require(word, layouts)
    width = max(layout.length for layout in layouts)
    where = torch.zeros(len(layouts), width, dtype=torch.bool)
    for row, layout in zip(where, layouts, strict=True):
        for first, end in _spans(word, layout):
            row[first:end] = True
    if word == "generated":
        for row, layout in zip(where, layouts, strict=True):
            row[layout.length :] = True
    return Mask(where, beyond=word == "generated")


def lacks(word: str, layout: Layout) -> str | None:
    """Why a prompt cannot be steered at `word`; None where it can."""
    if word in ("evidence", "question") and not _spans(word, layout):
        return f"it is not known which tokens of the prompt are the {word}, where steering is to act"
    return None


def _spans(word: str, layout: Layout) -> Spans:
    if word == "prompt":
        return ((0, layout.length),)
    if word == "last":
        return ((layout.length - 1, layout.length),)
    if word == "generated":
        return ()
    return layout.evidence if word == "evidence" else layout.question


def require(word: str, layouts: Sequence[Layout]) -> None:
    """Raise InputError, naming the first prompt, where one lacks what `word` names."""
    for i, layout in enumerate(layouts):
        if (why := lacks(word, layout)) is not None:
            raise InputError(f"prompt {i}: {why}")
