"""What parsing found in source files, kept in the cache folder: a content key needs it of hundreds, which takes long.

A line of the file is one source: its sha256, what was found, and a digest of both, so that a damaged line counts as
none. A file is of one reader: this Python and the code that reads. Lines are only appended. Where the file cannot be
read or written, sources are parsed again: nothing but time depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .folders import cache_folder

FOLDER = ".sources"


class Kept:
    """By the sha256 of a source what `reader`, the digest of the code that reads, found in it: plain JSON values."""

    def __init__(self, reader: str) -> None:
        version = hashlib.sha256(f"{reader} {sys.version}".encode()).hexdigest()
        self.path = cache_folder() / FOLDER / f"{version[:16]}.jsonl"
        self._found = _read(self.path)

    def get(self, sha256: str) -> Any:
        """What was found in the source, None where it is not known."""
        return self._found.get(sha256)

    def add(self, found: Mapping[str, Any]) -> None:
        """Keep what was found in sources."""
        self._found |= found
        lines = "".join(_line(sha256, value) for sha256, value in found.items())
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, lines.encode())  # at once, so that two processes do not mix their lines
            finally:
                os.close(descriptor)


def _line(sha256: str, value: Any) -> str:
    content = json.dumps([sha256, value])
    return f"{_check(content)} {content}\n"


def _check(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    whole = (content for check, _, content in (line.partition(" ") for line in lines) if check == _check(content))
    return dict(json.loads(content) for content in whole)
