"""Versions of the packages that compute, as they are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("mplat", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "numba", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of what computes, for the record."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
