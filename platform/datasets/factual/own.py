"""Factual prompts from a file of the user's own: prompts with their answer, and what of them is to be corrupted.

That is the record's `subject`, else its first `evidence`, else the whole prompt, of which the account is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...core.errors import InputError
from ..data_set import BadRecord
from ..readers.own_prompts import FORM, read_questions
from ..records import Question
from .records import FactualPrompt, found_in


class OwnFacts(NamedTuple):
    """whole: how many of the prompts say nothing of what is to be corrupted, and are corrupted as a whole."""

    prompts: tuple[FactualPrompt, ...]
    whole: int


def read_own(path: Path) -> OwnFacts:
    """The prompts of a file, of which every record must have an answer. Raises InputError as `read_questions`."""
    questions = read_questions(path)
    for question in questions:
        if not question.prompt or not question.answers:
            lacks = "prompt" if not question.prompt else "answer"
            raise InputError(f"{path}: record {question.id!r} has no {lacks}, and tracing needs one; {FORM}")
    return OwnFacts(tuple(_prompt(path, q) for q in questions), sum(not _named(q) for q in questions))


def _prompt(path: Path, question: Question) -> FactualPrompt:
    text = question.prompt or ""
    subject = _named(question) or text.rstrip()
    try:
        return FactualPrompt(
            id=question.id,
            dataset=question.dataset,
            prompt=text,
            subject=subject,
            subject_span=found_in(text, subject),
            answer=question.answers[0].strip(),
            relation=question.category,
        )
    except BadRecord as bad:
        raise InputError(f"{path}: record {question.id!r}: {bad}; {FORM}") from bad


def _named(question: Question) -> str:
    source = question.source()
    return source.get("subject") or next(iter(source.get("evidence", ())), "")
