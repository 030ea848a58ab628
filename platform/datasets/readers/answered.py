"""Texts of which it is known where their answers stand, as fine-tuning on answers needs them.

A record is `{"text": ..., "answers": [[start, stop], ...]}`, places in characters of the text, as many answers as there
are; or `{"prompt": ..., "completion": ...}`, whose completion is the answer. Files are .jsonl, .json, .csv, .tsv or
.parquet, text kinds also as .gz or .zst. Nothing is passed over: a record that is neither is an InputError that names
its file and place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError
from ..sources.own_files import TEXT, check_kind, rows

FORM = '{"text": ..., "answers": [[start, stop], ...]} or {"prompt": ..., "completion": ...}'


class AnsweredText(NamedTuple):
    """A text and the character spans [start, stop) of its answers, which rise and do not overlap.

    ends: whether the end of the text belongs to its last answer, as that of a completion does.
    """

    text: str
    answers: tuple[tuple[int, int], ...]
    ends: bool = False


def read(paths: Sequence[Path | str]) -> Iterator[AnsweredText]:
    """The texts of all files in their order. Raises InputError for a file or record that is not of the form."""
    for path in map(Path, paths):
        if check_kind(path, FORM) == TEXT:
            raise InputError(f"{path}: a text alone does not say where its answers are; give records {FORM}")
        for entry in rows(path):
            if entry.problem:
                raise InputError(f"{path}, {entry.where}: {entry.problem}; give {FORM}")
            problem, found = _text(entry.value)
            if found is None:
                raise InputError(f"{path}, {entry.where}: {problem}; give {FORM}")
            yield found


def _text(record: Any) -> tuple[str, AnsweredText | None]:
    """What is wrong with a record, or its text."""
    if not isinstance(record, Mapping):
        return "not an object", None
    completes = "prompt" in record or "completion" in record
    if completes:
        prompt, completion = record.get("prompt"), record.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
            return "'prompt' and 'completion' are not both text", None
        text, spans = prompt + completion, [[len(prompt), len(prompt) + len(completion)]]
    else:
        text, spans = record.get("text"), record.get("answers")
    if not isinstance(text, str) or not text:
        return "there is no 'text'", None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} is half a surrogate pair", None
    if not isinstance(spans, list):
        return "'answers' is no list of [start, stop]", None
    checked: list[tuple[int, int]] = []
    for span in spans:
        # bool is an int to Python; no place in a text is True
        if not isinstance(span, list) or len(span) != 2 or not all(type(place) is int for place in span):
            return f"{span!r} in 'answers' is not [start, stop]", None
        start, stop = span
        if not (checked[-1][1] if checked else 0) <= start < stop <= len(text):
            return f"the answer [{start}, {stop}] is no place of its own in a text of {len(text)} characters", None
        checked.append((start, stop))
    return "", AnsweredText(text, tuple(checked), completes)
