"""Loops over numbers, compiled by numba. Importing this file imports numba, and neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """njit with its cache beside the source or in the user's cache folder, without one where neither can be written."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:
        return numba.njit(function, nogil=True, error_model="numpy")
