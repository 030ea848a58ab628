"""Intervals of a mean, of a ratio of sums and of a proportion, of values that may come in groups.

References: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 14; Wilson (1927).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import isinf
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .flips import flip_test
from .samples import Floats, Groups, blocks, checked, grouped
from .score_test import all_or_nothing, share_interval


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
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Bootstrap interval of the mean of `values` (n,).

    groups: (n,) labels; groups are resampled whole, and the mean stays that over values. No bounds for fewer than two
    groups. Raises UsageError as every statistic here does: for values that are not flat and finite, for a confidence
    that does not lie between 0 and 1, and where the numbers of labels and values differ.
    """
    x = checked(values, confidence)
    by_group = grouped(x, groups)
    if len(by_group.sums) < 2:
        return Estimate(len(x), float(x.mean()) if len(x) else None, None, None)
    mean = float(x.mean())
    if np.all(x == x[0]):  # every resample is the sample
        return Estimate(len(x), mean, mean, mean)
    alone = groups is None
    means = _resampled_means(x, n_resamples, seed) if alone else _resampled_ratios(by_group, n_resamples, seed)
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(by_group, mean, means, levels)
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
    ratios = _resampled_ratios(Groups(a, b), n_resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(len(a), float(a.sum() / b.sum()), float(low), float(high))


def wilson(values: ArrayLike, *, confidence: float = 0.95, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Mean and Wilson score interval of values (n,) that are all 0 or 1; by groups, of as many as they are worth.

    No bounds for fewer than two groups. Raises UsageError where other values are among them, and as `bootstrap_mean`.
    """
    x = checked(values, confidence)
    if not np.all((x == 0) | (x == 1)):
        raise UsageError("Wilson's interval is for values 0 and 1; use bootstrap_mean")
    by_group = grouped(x, groups)
    if len(by_group.sums) < 2:
        return Estimate(len(x), float(x.mean()) if len(x) else None, None, None)
    return Estimate(len(x), float(x.mean()), *share_interval(x, by_group, confidence))


def mean_interval(
    values: ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    groups: Sequence[Hashable] | None = None,
    shares: bool | None = None,
) -> Estimate:
    """Mean of `values` (n,) and the interval that covers it: of a score test where they are mostly 0 or 1, else of sign
    flips of whole groups, whose bounds are None where so few groups cannot bound a mean.

    shares: whether they are scores between 0 and 1; None: they are where they lie there and one is 1. Raises UsageError
    as `bootstrap_mean`, and where values said to be shares are none.
    """
    x = checked(values, confidence)
    by_group = grouped(x, groups)
    if len(by_group.sums) < 2:
        return Estimate(len(x), float(x.mean()) if len(x) else None, None, None)
    mean = float(x.mean())
    if all_or_nothing((x,), shares):
        return Estimate(len(x), mean, *share_interval(x, by_group, confidence))
    # of what is left after the mean: groups that lie on it are still, and the interval does not depend on where 0 is
    test = flip_test(grouped(x - mean, groups), alpha=1 - confidence, seed=seed, n_draws=n_resamples)
    return Estimate(len(x), mean, *(None if isinf(bound) else mean + bound for bound in (test.low, test.high)))


def _resampled_means(x: Floats, n_resamples: int, seed: int) -> Floats:
    """Means (n_resamples,) of samples drawn from x with replacement."""
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), size=(rows, len(x)))].mean(axis=1) for rows in blocks(n_resamples, len(x))]
    return np.concatenate(means)


def _resampled_ratios(units: Groups, n_resamples: int, seed: int) -> Floats:
    """Sum over count (n_resamples,) of samples of units drawn with replacement."""
    rng = np.random.default_rng(seed)
    ratios: list[Floats] = []
    for rows in blocks(n_resamples, len(units.sums)):
        chosen = rng.integers(0, len(units.sums), size=(rows, len(units.sums)))
        ratios.append(units.sums[chosen].sum(axis=1) / units.counts[chosen].sum(axis=1))
    return np.concatenate(ratios)


def _bca_levels(units: Groups, mean: float, means: Floats, levels: Floats) -> Floats:
    """Quantile levels corrected for bias and skewness (Efron & Tibshirani, equations 14.9 to 14.15)."""
    normal = NormalDist()
    below = float(((means < mean).mean() + (means <= mean).mean()) / 2)
    below = min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means))
    bias = normal.inv_cdf(below)
    left_out = (units.sums.sum() - units.sums) / (units.counts.sum() - units.counts)
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + np.array([normal.inv_cdf(float(level)) for level in levels])
    return np.array([normal.cdf(float(bias + v / (1 - acceleration * v))) for v in z])
