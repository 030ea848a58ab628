"""Where a prompt states the answer to its question: the fact that a model has to keep until the end.

Found in the tokens alone: the answer's tokens, as they stand after a blank. Where the question names its evidence,
within the last sentence of it that states the answer; otherwise the last place in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..datasets.records import Question

Span = tuple[int, int]  # start and stop of tokens


def occurrences(tokens: Sequence[int], wanted: Sequence[int]) -> list[Span]:
    """Every span of `tokens` that reads as `wanted`, from left to right; none for nothing wanted."""
    n = len(wanted)
    if not n:
        return []
    found = range(len(tokens) - n + 1)
    return [(i, i + n) for i in found if tuple(tokens[i : i + n]) == tuple(wanted)]


def stated_at(
    question: Question, prompt: Sequence[int], answer: Sequence[int], ids: Callable[[str], list[int]]
) -> Span | None:
    """The tokens (start, stop) of `prompt` that state `answer`; None where it is not stated.

    A prompt's last token is not looked at: what is stated there needs no memory.
    """
    found = occurrences(prompt[:-1], answer)
    if not found:
        return None
    for support in reversed(question.supporting_facts):
        try:
            sentence = question.context[support.paragraph].sentences[support.sentence]
        except IndexError:
            continue  # a data set's mistake, which its reader has counted
        inside = [
            span
            for start, stop in _sentence_spans(prompt, ids(" " + sentence.strip()))
            for span in found
            if start <= span[0] and span[1] <= stop
        ]
        if inside:
            return inside[-1]
    return found[-1]


def _sentence_spans(prompt: Sequence[int], sentence: Sequence[int]) -> list[Span]:
    """Where the sentence stands; its last token may have merged with what follows."""
    return occurrences(prompt, sentence) or [(a, b + 1) for a, b in occurrences(prompt, sentence[:-1])]
