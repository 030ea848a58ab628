"""Versions of the packages that compute, as they are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("mplat", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "numba", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of what computes, for the record."""
    installed: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed
