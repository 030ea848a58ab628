"""Taking typed fields out of a record, with a reason for every one that is missing or of another type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..data_set import BadRecord

_P = ParamSpec("_P")
_T = TypeVar("_T")


def field(record: Any, name: str) -> Any:
    """`record[name]`, which must be there and not null."""
    if not isinstance(record, Mapping):
        raise BadRecord("wrong_type", f"a record is {_kind(record)}, not an object")
    if record.get(name) is None:
        raise BadRecord("missing_field", f"no {name!r}")
    return record[name]


def text(record: Any, name: str) -> str:
    """A field that is a text, possibly of white space."""
    value = field(record, name)
    if not isinstance(value, str):
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not a text")
    return value


def identifier(record: Any, name: str) -> str:
    """The id of a record: a text that is not white space."""
    value = text(record, name)
    if not value.strip():
        raise BadRecord("missing_field", f"{name!r} is blank")
    return value


def question_text(record: Any, name: str) -> str:
    """The question as the data set has it, leading spaces included; empty ones are no questions."""
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


def optional_text(record: Any, name: str) -> str:
    """A field that is a text, or "" where it is missing or null."""
    return text(record, name) if isinstance(record, Mapping) and record.get(name) is not None else ""


def optional_texts(record: Any, name: str) -> tuple[str, ...]:
    """A field that is a list of texts, or () where it is missing or null."""
    return texts(record, name) if isinstance(record, Mapping) and record.get(name) is not None else ()


def whole(record: Any, name: str) -> int:
    """A field that is a whole number; a table holds it in 64 bits."""
    value = field(record, name)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not a whole number of 64 bits")
    return value


def truth(record: Any, name: str) -> bool:
    """A field that is true or false."""
    value = field(record, name)
    if not isinstance(value, bool):
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not true or false")
    return value


def objects(record: Any, name: str) -> list[dict[str, Any]]:
    """A field that is a list of objects, or an object of columns, which is the same table the other way round."""
    value = field(record, name)
    if isinstance(value, Mapping):
        columns = {key: items_of(value, key) for key in value}
        if len({len(column) for column in columns.values()}) > 1:
            raise BadRecord("wrong_type", f"{name!r} has columns of different lengths")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise BadRecord("wrong_type", f"{name!r} is {_kind(value)}, not a list")
    wrong = next((item for item in value if not isinstance(item, Mapping)), None)
    if wrong is not None or None in value:
        raise BadRecord("wrong_type", f"{name!r} holds {_kind(wrong)}, not only objects")
    return value


def document(title: str, text: str) -> str:
    """What the questions on one text have in common, by its title and its content; the same text has the same name."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{title} {digest}".lstrip()


def bad_as_last(items: Callable[_P, Iterator[_T]]) -> Callable[_P, Iterator[_T | BadRecord]]:
    """A generator of which a BadRecord that it raises is the last element."""

    @wraps(items)
    def reported(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T | BadRecord]:
        try:
            yield from items(*args, **kwargs)
        except BadRecord as bad:
            yield bad

    return reported


@bad_as_last
def each(record: Any, name: str, expand: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """What `expand` makes of each element of a list field; a BadRecord instance where it is no list."""
    for element in items_of(record, name):
        yield from expand(element)


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
