"""What a node says of itself before work is given to it. It runs there, once mplat is known to be the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WHOLE = 64 << 20  # bytes; of a longer file the ends and what lies evenly between are compared
_SAMPLES, _SAMPLE = 64, 1 << 20


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """`question`: paths (-> whether their content is asked for) and, or None, the path of a token and its content.

    saw: `fingerprint` of each path. shares: whether the token is there, None where none was asked for.
    """
    token = question["token"]
    saw = {path: fingerprint(path, content=content) for path, content in question["paths"].items()}
    return {"saw": saw, "shares": None if token is None else _holds(*token)}


def fingerprint(path: str, *, content: bool) -> str | None:
    """What tells this file or folder from others of its name, or None where it cannot be read.

    Its size, of a folder the number of files directly in it and their sizes together; with `content` a digest too.
    Two models that differ in little may agree in it: whoever loads one compares the digest of all of it.
    """
    try:
        if os.path.isdir(path):
            sizes = [entry.stat().st_size for entry in os.scandir(path) if entry.is_file()]
            return f"{len(sizes)} files, {sum(sizes)} bytes"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not content:
                return f"{size} bytes"
            digest = hashlib.sha256()
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                for number in range(_SAMPLES):
                    file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE))
    except OSError:
        return None
    return f"{size} bytes, {digest.hexdigest()}"


def _holds(path: str, content: str) -> bool:
    try:
        return Path(path).read_text(encoding="utf-8") == content
    except (OSError, ValueError):
        return False
