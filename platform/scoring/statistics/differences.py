"""Differences between two ways of answering the same questions: their mean, its interval, and whether it is chance.

Interval and p-value are of one test, so that the interval excludes zero exactly where p < 1 - confidence:

- of sign flips of whole groups (`flips`), for values of any kind;
- where values are mostly all or nothing (exact match, F1), of the larger p-value of sign flips and of the score test
  (`score_test`): sign flips are exact for a mean of zero and the score test for no mean, but away from zero, with few
  changes or none, it is the score test alone whose interval covers the truth. So its interval it is, with zero
  added where sign flips do not exclude it.

References: Hartigan (1969), Tango (1998), Holm (1979); Cohen (1988) for effect sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import asin, isinf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .flips import flip_test, sign_flip_p
from .samples import Floats, checked, grouped
from .score_test import accepted, all_or_nothing, score_p


class Difference(NamedTuple):
    """A mean paired difference with its interval, its p-value and the p-value corrected for its family.

    n: pairs; n_groups: groups of them; effect: the difference in units that compare across metrics (`effect_size`).
    Bounds are None where so few groups cannot bound a mean at this confidence.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None
    n_groups: int | None = None
    effect: float | None = None


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    groups: Sequence[Hashable] | None = None,
    shares: bool | None = None,
) -> Difference:
    """mean(a - b) over pairs, with interval and p-value of one test. a, b: (n,), same order.

    groups: (n,) labels; pairs of one group (questions on one document) depend on each other. The mean is over pairs.
    shares: whether values are scores between 0 and 1, so that no change in n pairs still leaves room for some; None:
    they are where they lie there and one is 1. Neither interval nor p-value for fewer than two groups.

    Raises UsageError where a, b and labels differ in number, for values that are not flat and finite or no shares where
    they are said to be, and for a confidence that does not lie between 0 and 1.
    """
    x, y = checked(a, confidence), checked(b, confidence)
    if x.shape != y.shape:
        raise UsageError(f"paired values come in equal numbers, not {len(x)} and {len(y)}")
    d, alpha = x - y, 1 - confidence
    by_group = grouped(d, groups)
    found = Difference(len(d), None, None, None, None, n_groups=len(by_group.sums), effect=effect_size(x, y))
    if len(d):
        found = found._replace(mean=float(d.mean()))
    if found.mean is None or len(by_group.sums) < 2:
        return found
    if not all_or_nothing((x, y), shares):
        test = flip_test(by_group, alpha=alpha, seed=seed, n_draws=n_resamples)
        low, high = (None if isinf(bound) else bound for bound in (test.low, test.high))
        return found._replace(low=low, high=high, p=test.p)
    flips = sign_flip_p(d, seed=seed, n_draws=n_resamples, groups=groups)
    assert flips is not None
    score = score_p(d, by_group)
    low, high = accepted(score, found.mean, alpha)
    if flips >= alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    return found._replace(low=low, high=high, p=max(flips, score(0.0)))


def effect_size(a: ArrayLike, b: ArrayLike) -> float | None:
    """How large mean(a - b) is, in no unit: Cohen's h where all values are 0 or 1, else mean / deviation of a - b.

    h is the difference of 2 arcsin(sqrt(share)): .2 is small, .5 medium, .8 large. None for fewer than two pairs, and
    where differences do not vary but are not zero. Raises UsageError as `paired_difference`.
    """
    x, y = checked(a), checked(b)
    if x.shape != y.shape:
        raise UsageError(f"paired values come in equal numbers, not {len(x)} and {len(y)}")
    if len(x) < 2:
        return None
    if all(bool(np.all((side == 0) | (side == 1))) for side in (x, y)):
        return 2 * asin(sqrt(float(x.mean()))) - 2 * asin(sqrt(float(y.mean())))
    return _standardised(x - y)


def _standardised(d: Floats) -> float | None:
    if np.all(d == d[0]):
        return 0.0 if d[0] == 0 else None
    return float(d.mean() / d.std(ddof=1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None (no test was possible) stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def rank_p(own: float, draws: ArrayLike) -> float:
    """One-sided p-value of "own is one more draw": (1 + draws that are at least own) / (1 + draws). draws: (m,).

    With fewer than 19 draws it cannot be .05. Raises UsageError without a draw, and where a value is not finite.
    """
    others, value = checked(draws), checked([own])
    if not len(others):
        raise UsageError("a rank needs draws to compare with; make at least 19 for p <= .05")
    return float((1 + (others >= value[0]).sum()) / (1 + len(others)))
