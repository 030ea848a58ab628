"""Mean and variance of streams: batches are reduced to count, mean and squared deviations, and these are merged.

    mean_ab = mean_a + d n_b / n,   M2_ab = M2_a + M2_b + d^2 n_a n_b / n,   d = mean_b - mean_a

(Chan, Golub and LeVeque 1979). Within a batch the deviations are taken from the batch's own mean, so nothing cancels;
everything is float64. The result does not depend on how the stream was cut up, except for the last bits, and merging in
one fixed order fixes those too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Moments(NamedTuple):
    """n values per channel: their mean (C,) and the sum m2 (C,) of squared deviations from it."""

    n: int
    mean: Floats
    m2: Floats

    @property
    def variance(self) -> Floats:
        """Population variance (divided by n); for n = 0 there is none, and asking is an error."""
        assert self.n > 0
        return self.m2 / self.n


def moments_of(values: Floats) -> Moments:
    """Moments of values (n, C)."""
    n, channels = values.shape
    if n == 0:
        return Moments(0, np.zeros(channels), np.zeros(channels))
    mean = values.mean(0, dtype=np.float64)
    return Moments(n, mean, ((values - mean) ** 2).sum(0, dtype=np.float64))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both streams together."""
    if a.n == 0:
        return b
    if b.n == 0:
        return a
    n = a.n + b.n
    d = b.mean - a.mean
    return Moments(n, a.mean + d * (b.n / n), a.m2 + b.m2 + d * d * (a.n * b.n / n))


def merge_rows(rows: Iterable[Mapping[str, Any]], channels: int, name: str = "") -> Moments:
    """Moments of what the fields n, mean and m2 of `rows`, in this order, hold; name: what these begin with."""
    parts = (Moments(row[f"{name}n"], np.array(row[f"{name}mean"]), np.array(row[f"{name}m2"])) for row in rows)
    return merge_all(parts, channels)


def merge_all(parts: Iterable[Moments], channels: int) -> Moments:
    """Moments of all parts, merged from left to right."""
    total = Moments(0, np.zeros(channels), np.zeros(channels))
    for part in parts:
        total = merge(total, part)
    return total
