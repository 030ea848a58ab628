"""JSON as it is read: the type of what it holds, and the files of a model's folder, which are one object in UTF-8, no
key twice, or one sentence that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from .errors import InputError

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"  # what JSON and YAML can say


def read_object(path: Path) -> dict[str, Any]:
    """The object that `path` holds. Raises InputError for anything else, and for a key that stands twice in one object:
    which of the two counts would depend on the reader."""
    try:
        content: Plain = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Twice as error:
        raise InputError(f"{path}: has the key {error.args[0]!r} twice; leave one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    except RecursionError:
        raise InputError(f"{path}: not valid JSON for a model (nested too deeply)") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object")
    return content


class _Twice(Exception):
    """A key that an object has already."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _Twice(key)
        content[key] = value
    return content
