"""Numbers and foreign text as a page shows them.

`visible` takes everything out of a text that could act on a reader's screen or break the file: escape sequences,
control characters, overrides of the text direction, halves of surrogate pairs. The template engine escapes the rest.
"""

from __future__ import annotations

import math
import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.S
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
MINUS = "\u2212"


def visible(text: str) -> str:
    """`text` without what is not to be seen; a lone surrogate becomes the replacement character."""
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", _ESCAPES.sub("", text)))


def shown(text: str) -> str:
    """An answer of a model: as it is, or in words where there is nothing to see."""
    seen = visible(text).strip()
    return seen if seen else "(nothing)"


def percent(value: float) -> str:
    """A share in percent with one decimal: 0.625 -> 62.5."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", MINUS)


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign: 0.0125 -> +1.3; 0 has none."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def signed(value: float) -> str:
    """A change with its sign and three decimals; 0 has no sign."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", MINUS)


def plain_number(value: float | int) -> str:
    """Whole numbers with separators, others with four significant digits."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """A p-value with three decimals, or "–" where no test was possible."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
