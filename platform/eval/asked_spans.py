"""Where evidence and question stand among the tokens of a prompt, for steering that acts there alone."""

from __future__ import annotations

from collections.abc import Iterable

from ..datasets.prompting.prompts import Prompt
from ..datasets.records import Question


def spans_at(question: Question, prompt: Prompt) -> dict[str, list[list[int]]]:
    """evidence_at and question_at: ranges (first, behind the last) of tokens, none where the place is not known.

    A token belongs to what any of its characters belongs to. The question is where its words stand last.
    """
    asked = question.question.strip()
    start = prompt.text.rfind(asked) if asked else -1
    return {
        "evidence_at": _tokens(prompt, prompt.evidence),
        "question_at": _tokens(prompt, [(start, start + len(asked))] if start >= 0 else []),
    }


def _tokens(prompt: Prompt, spans: Iterable[tuple[int, int]]) -> list[list[int]]:
    if prompt.encoded is None:
        return []
    found = [prompt.encoded.tokens_of(first, end) for first, end in spans]
    return [[first, end] for first, end in found if end > first]
