"""JSON as it is read, from wherever it comes: one strict reader, and one sentence for everything that is wrong.

A file is UTF-8, of a bounded size, and one value: no key twice in an object (which of the two counts would depend on
the reader), no NaN or infinity, neither written out nor as a number too large for a float, whole numbers of at most
`MAX_DIGITS` digits, at most `MAX_DEPTH` lists and objects inside each other, and no half of a surrogate pair, which is
no text that could be written again. What a value means is for its reader to check.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from .errors import InputError

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"  # what JSON and YAML can say

MAX_BYTES = 1 << 25  # Python's lists and objects take up to 25 times as much
MAX_DEPTH = 100
MAX_DIGITS = 40  # 128 bits, as the states of random generators have


class DuplicateKey(ValueError):
    """A key that stands twice in one object."""


def read_json(path: Path, *, limit: int = MAX_BYTES, advice: str = "") -> Any:
    """The value that `path` holds. Raises InputError, ended with `advice`, for a file that cannot be read, is larger
    than `limit` bytes or is no such JSON."""
    return parse(read_bounded(path, limit, advice=advice), str(path), advice=advice)


def read_object(path: Path, *, limit: int = MAX_BYTES, advice: str = "", constants: bool = False) -> dict[str, Any]:
    """The object that `path` holds. Raises InputError as `read_json` does, and for any other value.

    constants: NaN and Infinity are numbers, as transformers writes them (`time_step_limit` of published models)."""
    text = read_bounded(path, limit, advice=advice)
    content: Plain = parse(text, str(path), advice=advice, constants=constants)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object{_ending(advice)}")
    return content


def parse(text: bytes | str, source: str, *, advice: str = "", constants: bool = False) -> Any:
    """The value of a JSON text that is called `source` in messages. Raises InputError where it is none."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = strict(decoded, constants=constants)
        if "\\ud" in decoded or "\\uD" in decoded:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{source}: has half of a surrogate pair, which is no text{_ending(advice)}") from None
    except DuplicateKey as error:
        raise InputError(f"{source}: {error}; leave one{_ending(advice)}") from None
    except ValueError as error:
        raise InputError(f"{source}: not valid JSON ({error}){_ending(advice)}") from error
    return value


def strict(text: str, *, constants: bool = False) -> Plain:
    """The value of a JSON text, halves of surrogate pairs among its texts. Raises ValueError saying what is wrong:
    DuplicateKey, json.JSONDecodeError, which has the place, or a plain one."""
    try:
        value: Plain = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=float if constants else _refuse,
            parse_int=_whole,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError(_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def read_bounded(path: Path, limit: int, *, advice: str = "") -> bytes:
    """The bytes of a plain file. Raises InputError where it is none, cannot be read or has more than `limit` bytes."""
    content = None
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):  # to open a pipe would wait for its writer
            with open(path, "rb") as file:
                content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}){_ending(advice)}") from error
    if content is None:
        raise InputError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'no plain file'}{_ending(advice)}")
    if len(content) > limit:
        raise InputError(f"{path}: has more than {limit} bytes, as no file of its kind has{_ending(advice)}")
    return content


_DEEP = f"nested too deeply, more than {MAX_DEPTH} lists and objects inside each other"


def _ending(advice: str) -> str:
    return f"; {advice}" if advice else ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(f"has the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return content


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(value: Plain) -> None:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise ValueError(_DEEP)
