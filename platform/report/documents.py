"""The files of a run as checked values: JSON objects whose every access says what is wrong, and Parquet rows.

A file that is absent is the caller's to judge; a file that is there and damaged, or lacks a key, is an InputError that
names the file, the place in it and the command that writes it again. Nothing is guessed and nothing is repaired.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import json_files
from ..core.errors import InputError


@dataclass(frozen=True)
class Document:
    """A value inside a JSON file. place: where in it; remedy: what to do when it is damaged."""

    path: Path
    value: Any
    remedy: str
    place: str = ""

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def at(self, key: str) -> Document:
        """The value of a key, which must be there."""
        if not isinstance(self.value, dict):
            raise self._damaged("is not an object")
        if key not in self.value:
            raise self._damaged(f"has no {key!r}")
        return Document(self.path, self.value[key], self.remedy, f"{self.place}.{key}" if self.place else key)

    def entries(self) -> Iterator[tuple[str, Document]]:
        """The keys and values of an object, in order."""
        if not isinstance(self.value, dict):
            raise self._damaged("is not an object")
        for key in self.value:
            yield str(key), self.at(key)

    def elements(self) -> Iterator[Document]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self._damaged("is not a list")
        for number, value in enumerate(self.value):
            yield Document(self.path, value, self.remedy, f"{self.place}[{number}]")

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise self._damaged("is not a text")
        return self.value

    def whole(self) -> int:
        """A whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._damaged("is not a whole number")
        return self.value

    def number(self) -> float | None:
        """A finite number, or None for null."""
        if self.value is None:
            return None
        if not isinstance(self.value, int | float) or isinstance(self.value, bool) or not math.isfinite(self.value):
            raise self._damaged("is not a finite number")
        return float(self.value)

    def _damaged(self, what: str) -> InputError:
        place = f"{self.place!r} " if self.place else "it "
        return InputError(f"{self.path}: {place}{what}; {self.remedy}")


def read_json(path: Path, remedy: str) -> Document:
    """The JSON file `path`; InputError where it is no JSON or cannot be read. NaN and infinities are no JSON."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file; {remedy}")
    return Document(path, json_files.read_json(path, advice=remedy), remedy)


def read_rows(path: Path, columns: Sequence[str], remedy: str, optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a Parquet file, of `columns` and `optional` only; InputError where it is damaged or lacks a column.

    An optional column that is not there has None in every row.
    """
    from ..core.whole_files import read_table

    table = read_table(path, advice=remedy)
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise InputError(f"{path}: has no column {', '.join(absent)}; {remedy}")
    there = [name for name in optional if name in table.column_names]
    empty = dict.fromkeys(optional)
    return [empty | row for row in table.select([*columns, *there]).to_pylist()]


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as dotted names and texts: {"a": {"b": [1, 2]}} gives ("a.b", "1, 2")."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and not any(isinstance(v, dict | list) for v in value):
        yield prefix, ", ".join(_as_text(v) for v in value) or "(none)"
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{prefix}.{number}")
    else:
        yield prefix, _as_text(value)


def _as_text(value: Any) -> str:
    """A value as it is read; a text with white space that cannot be seen is quoted."""
    plain = isinstance(value, str) and value and value == " ".join(value.split())
    return value if plain else json.dumps(value, ensure_ascii=False)
