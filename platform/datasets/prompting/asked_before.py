"""Which questions a decision was made on, so that the same ones do not judge it.

What decides (analyses that name channels, a recipe, the choice of the best weights) keeps the digests of its questions:
of what is asked, whatever the id. `refuse_overlap` is called with the questions that are to judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from ...core.errors import InputError
from ...core.json_files import read_object
from ..records import Question

CHOICE_FILE = "chosen_by.json"  # in a model's folder: the questions by which its weights were chosen
_FORMAT = "mplat-choice-1"
_NAMED = 5  # ids in a message


def question_digest(question: Question) -> str:
    """32 hexadecimal digits that name what is asked: the prompt, else the question and its context."""
    said = [question.prompt] if question.prompt is not None else [question.question, question.context_text()]
    text = "".join(f"{len(part)}:{part}" for part in said)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def question_digests(questions: Iterable[Question]) -> tuple[str, ...]:
    """The digests of `questions`, sorted, each once."""
    return tuple(sorted({question_digest(question) for question in questions}))


def refuse_overlap(judging: Iterable[Question], decided_on: Collection[str], what: str, remedy: str) -> None:
    """Raise InputError with the ids where some of `judging` are among the digests `decided_on`."""
    known = set(decided_on)
    shared = sorted({question.id for question in judging if known and question_digest(question) in known})
    if shared:
        named = ", ".join(shared[:_NAMED]) + (f", ... ({len(shared)} in all)" if len(shared) > _NAMED else "")
        raise InputError(f"{what} was made on questions that are to judge it: {named}; {remedy}")


def write_choice(folder: Path, questions: Iterable[Question]) -> None:
    """Note in a model's folder by which questions its weights were chosen."""
    content = {"format": _FORMAT, "questions": list(question_digests(questions))}
    (folder / CHOICE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_choice(model: str) -> tuple[str, ...]:
    """The digests by which the weights of a model were chosen; none for one that is no folder or has no such note."""
    path = Path(model) / CHOICE_FILE
    if not path.is_file():
        return ()
    content = read_object(path)
    questions = content.get("questions")
    if (
        content.get("format") != _FORMAT
        or not isinstance(questions, list)
        or not all(isinstance(digest, str) for digest in questions)
    ):
        raise InputError(f"{path}: not a record of the questions that chose the weights (not of format {_FORMAT})")
    return tuple(questions)
