"""Versions of the packages that compute, as they are installed, and the digest of this one's sources."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "mplat", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "numba", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what computes, for the record."""
    return {"python": platform.python_version()} | {name: _installed(name) for name in _PACKAGES}


@cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@cache
def code_digest() -> str:
    """sha256 of every source file of mplat, for the record; comments count, and so does code that was not used."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
