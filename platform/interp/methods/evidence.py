"""Where a prompt states the answer to its question: the fact that a model has to keep until the end.

Found in the prompt's characters, as words of their own, and then in its tokens. Where the question's evidence stands in
the prompt, within the last sentence of it that states the answer; otherwise the last place in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...datasets.prompting.prompts import Prompt

Span = tuple[int, int]  # start and stop


def occurrences(where: Sequence[Any], wanted: Sequence[Any]) -> list[Span]:
    """Every span of `where` that reads as `wanted` (both texts, or both tokens), from left to right; none for nothing
    wanted."""
    n = len(wanted)
    if not n:
        return []
    starts = range(len(where) - n + 1)
    return [(i, i + n) for i in starts if where[i] == wanted[0] and where[i : i + n] == wanted]


def stated_at(prompt: Prompt, answer: str) -> Span | None:
    """The tokens (start, stop) of `prompt` that state `answer`; None where it is not stated.

    A prompt's last token is not looked at: what is stated there needs no memory.
    """
    if prompt.encoded is None:
        return None
    text, last = prompt.text, len(prompt.tokens) - 1
    statements: list[tuple[Span, Span]] = []  # in characters, in tokens
    for start, stop in occurrences(text, answer.strip()):
        if _is_word(text, start, stop):
            tokens = prompt.encoded.tokens_of(start, stop)
            if tokens[0] < tokens[1] <= last:
                statements.append(((start, stop), tokens))
    for from_, to in reversed(prompt.evidence):
        inside = [tokens for (start, stop), tokens in statements if from_ <= start and stop <= to]
        if inside:
            return inside[-1]
    return statements[-1][1] if statements else None


def _is_word(text: str, start: int, stop: int) -> bool:
    """Whether no word goes on beyond the ends of the span."""
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (after.isalnum() and text[stop - 1].isalnum())
