"""Taking typed fields out of a record, with a reason for every one that is missing or of another type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .registry import BadRecord


def field(record: Any, name: str) -> Any:
    """`record[name]`, which must be there and not null."""
    if not isinstance(record, Mapping):
        raise BadRecord("wrong_type", f"a record is {_kind(record)}, not an object")
    if record.get(name) is None:
        raise BadRecord("missing_field", f"no {name!r}")
    return record[name]


def text(record: Any, name: str) -> str:
    """A field that is a text, possibly blank."""
    value = field(record, name)
    if not isinstance(value, str):
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not a text")
    return value


def identifier(record: Any, name: str) -> str:
    """The id of a record: a text that is not blank."""
    value = text(record, name)
    if not value.strip():
        raise BadRecord("missing_field", f"{name!r} is blank")
    return value


def question_text(record: Any, name: str) -> str:
    """The question as the data set has it, leading blanks included; blank ones are no questions."""
    value = text(record, name)
    if not value.strip():
        raise BadRecord("empty_question", f"{name!r} is blank")
    return value


def items_of(record: Any, name: str) -> list[Any]:
    """A field that is a list."""
    value = field(record, name)
    if not isinstance(value, list):
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not a list")
    return value


def texts(record: Any, name: str) -> tuple[str, ...]:
    """A field that is a list of texts."""
    value = items_of(record, name)
    wrong = next((item for item in value if not isinstance(item, str)), None)
    if wrong is not None or None in value:
        raise BadRecord("wrong_type", f"{name!r} holds {_kind(wrong)}, not only texts")
    return tuple(value)


def answers(candidates: tuple[str, ...]) -> tuple[str, ...]:
    """Accepted answers as given; a record where none has any text has no answer."""
    if not any(candidate.strip() for candidate in candidates):
        raise BadRecord("no_answer", "no answer text")
    return candidates


def _kind(value: Any) -> str:
    names = {
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)
