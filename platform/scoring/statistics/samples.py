"""What every statistic begins with: values that are checked, how they are resampled, and how many at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Groups(NamedTuple):
    """Values in groups. sums, counts: (G,) of the values of each group."""

    sums: Floats
    counts: Floats

    @property
    def crowding(self) -> float:
        """What a group's size multiplies a variance by if all its values were one: sum of squared sizes / n, >= 1."""
        return float((self.counts**2).sum() / self.counts.sum())

    def spread(self, centre: float) -> float:
        """Sum of squares between groups of values less `centre`, unbiased for few groups: needs at least two."""
        return float(((self.sums - centre * self.counts) ** 2).sum()) * len(self.sums) / (len(self.sums) - 1)


def grouped(x: Floats, groups: Sequence[Hashable] | None) -> Groups:
    """`x` (n,) by the label of each value, groups in order of appearance; None: each value is a group of its own.

    Raises UsageError where the numbers of labels and values differ.
    """
    if groups is None:
        return Groups(x, np.ones(len(x)))
    if len(groups) != len(x):
        raise UsageError(f"{len(groups)} groups and {len(x)} values: give one group for each")
    numbers: dict[Hashable, int] = {}
    which = np.array([numbers.setdefault(label, len(numbers)) for label in groups], np.int64)
    counts = np.bincount(which, minlength=len(numbers)).astype(np.float64)
    sums: Floats = np.zeros(len(numbers))
    sizes: Floats = np.zeros(len(numbers))
    np.add.at(sums, which, x)
    np.add.at(sizes, which, np.abs(x))
    sums[np.abs(sums) <= 1e-12 * sizes] = 0.0  # a group whose values cancel is still, whatever rounding says
    return Groups(sums, counts)


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
