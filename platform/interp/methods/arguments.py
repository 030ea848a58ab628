"""Whole numbers among the arguments of a trace, of whatever integer type, or a usage error that names them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

from ...core.errors import UsageError


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a sequence and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def integer(value: Any, what: str, least: int | None = None) -> int:
    """`value` as an int. what: its name and meaning, for the error. Raises UsageError unless it is one from `least`."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise UsageError(f"{what} must be an integer{bound}, not {value!r}")
    return number


def integers(values: Sequence[int], what: str) -> list[int]:
    """`values` as ints. Raises UsageError where they are none."""
    try:
        items = list(values)
    except TypeError:
        raise UsageError(f"{what} is a list of integers, not {values!r}") from None
    return [integer(item, f"each of {what}") for item in items]
