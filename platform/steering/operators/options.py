"""Options of operators, read as the numbers they have to be."""

from __future__ import annotations

import math

from ...core.errors import UsageError
from . import Target


def number(target: Target, name: str, default: float) -> float:
    """The option `name`; UsageError where it is no number of 0 or more (infinity is `default`'s alone)."""
    value = target.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise UsageError(f"operator at {target.site}: option {name} must be a number of 0 or more, not {value!r}")
    return float(value)


def whole(target: Target, name: str, default: int) -> int:
    """The option `name`; UsageError where it is no whole number."""
    value = target.options.get(name, default)
    if type(value) is not int:
        raise UsageError(f"operator at {target.site}: option {name} must be a whole number, not {value!r}")
    return value
