"""Intervals of a mean, of a ratio of sums and of a proportion.

References: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 14; Wilson (1927).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .samples import Floats, blocks, checked


class Estimate(NamedTuple):
    """A mean of n values and its interval; mean is None for n = 0, the bounds for n < 2."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


def bootstrap_mean(
    values: ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    method: Literal["percentile", "bca"] = "percentile",
) -> Estimate:
    """Bootstrap interval of the mean of `values` (n,).

    Raises UsageError as every statistic here does: for values that are not flat and finite, and for a confidence that
    does not lie between 0 and 1.
    """
    x = checked(values, confidence)
    if len(x) < 2:
        return Estimate(len(x), float(x.mean()) if len(x) else None, None, None)
    mean = float(x.mean())
    if np.all(x == x[0]):  # every resample is the sample
        return Estimate(len(x), mean, mean, mean)
    means = _resampled_means(x, n_resamples, seed)
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(x, mean, means, levels)
    low, high = np.quantile(means, levels)
    return Estimate(len(x), mean, float(low), float(high))


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000
) -> Estimate:
    """sum(numerators) / sum(denominators) over units that are resampled together, with percentile bootstrap interval.

    numerators, denominators: (n,), same order, denominators positive. `mean` is the ratio. Raises UsageError where
    they are not, and as `bootstrap_mean`.
    """
    a, b = checked(numerators, confidence), checked(denominators, confidence)
    if a.shape != b.shape or np.any(b <= 0):
        raise UsageError("a ratio needs as many numerators as denominators, and these greater than 0")
    if len(a) < 2:
        return Estimate(len(a), float(a.sum() / b.sum()) if len(a) else None, None, None)
    rng = np.random.default_rng(seed)
    ratios: list[Floats] = []
    for rows in blocks(n_resamples, len(a)):
        chosen = rng.integers(0, len(a), size=(rows, len(a)))
        ratios.append(a[chosen].sum(axis=1) / b[chosen].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Estimate(len(a), float(a.sum() / b.sum()), float(low), float(high))


def wilson(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean and Wilson score interval of values (n,) that are all 0 or 1. Raises UsageError where they are not."""
    x = checked(values, confidence)
    if not np.all((x == 0) | (x == 1)):
        raise UsageError("Wilson's interval is for values 0 and 1; use bootstrap_mean")
    n = len(x)
    if n < 2:
        return Estimate(n, float(x.mean()) if n else None, None, None)
    share = float(x.mean())
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at 0 and 1 one bound is the share itself; rounding must not leave it outside
    return Estimate(n, share, min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half))))


def mean_interval(values: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000) -> Estimate:
    """Wilson's interval where all of `values` (n,) are 0 or 1, else the percentile bootstrap; UsageError as there."""
    x = checked(values, confidence)
    if np.all((x == 0) | (x == 1)):
        return wilson(x, confidence=confidence)
    return bootstrap_mean(x, seed=seed, confidence=confidence, n_resamples=n_resamples)


def _resampled_means(x: Floats, n_resamples: int, seed: int) -> Floats:
    """Means (n_resamples,) of samples drawn from x with replacement."""
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), size=(rows, len(x)))].mean(axis=1) for rows in blocks(n_resamples, len(x))]
    return np.concatenate(means)


def _bca_levels(x: Floats, mean: float, means: Floats, levels: Floats) -> Floats:
    """Quantile levels corrected for bias and skewness (Efron & Tibshirani, equations 14.9 to 14.15)."""
    normal = NormalDist()
    below = float(((means < mean).mean() + (means <= mean).mean()) / 2)
    below = min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means))
    bias = normal.inv_cdf(below)
    left_out = (x.sum() - x) / (len(x) - 1)
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5)
    z = bias + np.array([normal.inv_cdf(float(level)) for level in levels])
    return np.array([normal.cdf(float(bias + v / (1 - acceleration * v))) for v in z])
