"""Whether two circuits are the same units more often than chance: counts, not pictures.

A circuit is the k units of N whose ablation costs the answer most, by an effect for every unit. Two circuits drawn
blindly share k k' / N units on average, and a number of shared units at least as large as the observed one has the
probability of the hypergeometric distribution's upper tail (Fisher's exact test, one-sided). The p-value is exact; it
takes few values where few units are expected to be shared, so that it is then at most as often small as it says.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]


class Overlap(NamedTuple):
    """Of n units `first` and `second` are in the circuits, `shared` in both; expected: by chance; p: of so many or
    more."""

    n: int
    first: int
    second: int
    shared: int
    expected: float
    p: float


def top_units(effects: ArrayLike, k: int) -> NDArray[np.int64]:
    """The k units of effects (N,), changes of log-probability by ablation, that cost most, ascending; ties by number.

    Raises UsageError for a k that is not between 1 and N, and for effects that are not finite.
    """
    values = np.asarray(effects, np.float64)
    if values.ndim != 1 or not 1 <= k <= len(values) or not np.isfinite(values).all():
        raise UsageError(f"the top {k} units of finite effects (N,), not of shape {values.shape}")
    return np.sort(np.argsort(values, kind="stable")[:k])


def overlap(first: Collection[int], second: Collection[int], n: int) -> Overlap:
    """Of two circuits among n units. Raises UsageError where a unit lies outside of them."""
    one, other = {int(unit) for unit in first}, {int(unit) for unit in second}
    if any(not 0 <= unit < n for unit in one | other):
        raise UsageError(f"units are numbered from 0 to {n - 1}")
    shared = len(one & other)
    return Overlap(n, len(one), len(other), shared, len(one) * len(other) / n, tail(n, len(one), len(other), shared))


def tail(n: int, first: int, second: int, shared: int) -> float:
    """P(X >= shared) for circuits of `first` and `second` of n units drawn blindly."""
    if shared <= max(0, first + second - n):
        return 1.0
    x = np.arange(shared, min(first, second) + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])

    def log_choose(whole: int, part: NDArray[np.int64]) -> Floats:
        return log_factorials[whole] - log_factorials[part] - log_factorials[whole - part]

    logs = log_choose(first, x) + log_choose(n - first, second - x) - log_choose(n, np.array([second]))
    return float(min(1.0, np.exp(logs).sum()))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's correlation of two effect profiles (N,); None where one does not vary or N is below three.

    Raises UsageError where they are not of the same units.
    """
    x, y = _ranks(a), _ranks(b)
    if len(x) != len(y):
        raise UsageError(f"profiles of the same units, not of {len(x)} and {len(y)}")
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float(np.clip(x @ y / norm, -1.0, 1.0)) if len(x) > 2 and norm > 0 else None


def _ranks(values: ArrayLike) -> Floats:
    """Ranks of values (N,) from the smallest, the mean of them for equal ones."""
    _, which, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
