"""What every statistic begins with: values that are checked, how they are resampled, and how many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_CELLS_AT_ONCE = 2**22  # bounds memory: resamples are made in blocks of at most this many values


@dataclass(frozen=True)
class Resampling:
    """How intervals and p-values are made."""

    seed: int
    confidence: float
    resamples: int


def checked(values: ArrayLike, confidence: float = 0.95) -> Floats:
    """`values` (n,) as float64. Raises UsageError unless they are flat and finite, and confidence between 0 and 1."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise UsageError(f"statistics need a flat list of finite numbers, not shape {x.shape} with non-finite values")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, not {confidence}")
    return x


def blocks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to `total`, of as many rows of `width` values as memory shall hold at once."""
    step = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, total, step):
        yield min(step, total - start)
