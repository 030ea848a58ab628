"""JSON as data files need it: strict, with a reason for every refusal, and readable from a cut-off start.

As strict as `core.json_files`: a key given twice and NaN or infinities are refused, since both mean that a value would
be lost or made up.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

from ...core.json_files import DuplicateKey, strict


class Unusable(ValueError):
    """A text that is not the JSON a data file should hold; `reason` is the word it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CutOff(Unusable):
    """A text that stops before its JSON value is complete."""


def parse(text: bytes, *, spoilt: bool = False) -> Any:
    """The value of a complete JSON text in UTF-8; raises Unusable (CutOff where it merely stops too early).

    With `spoilt`, bytes that are not UTF-8 become half surrogates in place of an error.
    """
    if b"\0" in text:
        raise Unusable("nul_byte", f"byte {text.index(0)} is NUL")
    try:
        decoded = text.decode("utf-8", "surrogateescape" if spoilt else "strict")
    except UnicodeDecodeError as error:
        cut = error.end == len(text) and "unexpected end" in error.reason
        kind = CutOff if cut else Unusable
        raise kind("invalid_utf8", f"byte {error.start} is not valid UTF-8") from error
    if decoded.startswith("\ufeff"):
        raise Unusable("byte_order_mark", "a byte order mark in the middle of the file")
    try:
        return strict(decoded)
    except DuplicateKey as error:
        raise Unusable("duplicate_key", str(error)) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}: {error.msg}"
        # a literal or an escape may begin a few characters before the place where the text stops
        cut = error.msg.startswith("Unterminated") or error.pos >= len(decoded.rstrip()) - 5
        cut = cut and not _complete(decoded)
        raise (CutOff if cut else Unusable)("broken_json", place) from error
    except ValueError as error:
        raise Unusable("broken_json", str(error)) from error


def parse_start(text: bytes) -> Any | None:
    """The value that the start of a JSON text holds: open containers are cut after their last complete element.

    None where not even one element is complete, or the text is not JSON.
    """
    with suppress(Unusable):  # most files are shorter than what is looked at: whole texts need no search for a cut
        value = parse(text, spoilt=True)
        return value if isinstance(value, list | dict) else None
    open_brackets: list[str] = []
    cut: tuple[int, str] | None = None
    for token in _TOKEN.finditer(text):
        mark = token[0][:1]
        if mark in b"[{":
            open_brackets.append("]" if mark == b"[" else "}")
        elif mark in b"]}":
            if not open_brackets:
                return None
            open_brackets.pop()
            if not open_brackets:
                cut = (token.end(), "")
                break
        elif mark == b",":
            cut = (token.start(), "".join(reversed(open_brackets)))
    if cut is None:
        return None
    end, closing = cut
    try:
        return parse(text[:end] + closing.encode(), spoilt=True)
    except Unusable:
        return None


_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


def _complete(text: str) -> bool:
    """Whether every bracket that the text opens is closed again: then it is wrong, but not cut off."""
    depth = 0
    for token in _TOKEN.finditer(text.encode("utf-8", "surrogatepass")):
        mark = token[0][:1]
        if mark == b'"' and (len(token[0]) == 1 or not token[0].endswith(b'"')):
            return False
        depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
    return depth <= 0
