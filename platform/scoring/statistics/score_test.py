"""Score tests of means whose values are mostly all or nothing, such as exact match: intervals that stay honest near 0.

Where few answers change, or none does, resamples of the sample hardly vary: the spread has to be the one that the asked
mean implies, not the one that was seen. For a share that is Wilson's interval (1927), for the difference of two paired
shares Tango's (1998). Here both are extended

- to values between 0 and 1 (F1): the seen variance is a fraction of what values 0 and 1 of the same mean would have;
- to groups: the variance is multiplied by the design effect, sum of squares between groups over that between values,
  at least 1.

Both ratios are seen in few values when little changes; so they have half a pseudo-value each that changed by 1 and
carried its whole group along, which is what they are where nothing changed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erfc, sqrt
from statistics import NormalDist

import numpy as np

from ...core.errors import UsageError
from .samples import Floats, Groups

_PSEUDO = 0.5  # values: chosen by benchmarks/intervals.py, with which intervals of 50 values cover 93 % and more
_HALVINGS = 80


def all_or_nothing(sides: Sequence[Floats], shares: bool | None) -> bool:
    """Whether values are such that a score test is for them: in [0, 1], and they (of two sides, the differences) are
    mostly 0 or 1. shares: whether they are shares at all; None: they are where one of them is 1.

    Raises UsageError where `shares` is true and a value lies outside [0, 1].
    """
    bounded = not any(np.any((x < 0) | (x > 1)) for x in sides)
    if shares and not bounded:
        raise UsageError("shares lie between 0 and 1; leave shares out for values of another kind")
    if not bounded or shares is False or (shares is None and not any(np.any(x == 1) for x in sides)):
        return False
    size = np.abs(sides[0] - sides[1]) if len(sides) == 2 else sides[0]
    return bool(2 * np.sum((size == 0) | (size == 1)) >= len(size))


def share_interval(x: Floats, groups: Groups, confidence: float) -> tuple[float, float]:
    """Wilson's interval of the mean of values in [0, 1], for as many values as these are worth; two groups at least."""
    share = float(x.mean())
    n = len(x) / (_fraction(x, share) * _design_effect(x, groups))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at 0 and 1 one bound is the share itself; rounding must not leave it outside
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def score_p(d: Floats, groups: Groups) -> Callable[[float], float]:
    """p(t), two-sided: of "the mean of differences in [-1, 1] is t", for -1 <= t <= 1. At least two groups."""
    n, up, down = len(d), float(d[d > 0].sum()), float(-d[d < 0].sum())
    effect = _design_effect(d, groups)
    fraction = float(((d**2).sum() + _PSEUDO) / (up + down + _PSEUDO))

    def p(mean: float) -> float:
        # the share of -1 that is most likely given the difference of the shares (Tango's equation for p21)
        linear, constant = (2 * n - up + down) * mean - up - down, -down * mean * (1 - mean)
        fewer = (sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * effect * (fraction * (2 * fewer + mean) - mean**2)
        distance = abs(up - down - n * mean)
        if distance <= 1e-12 * n:
            return 1.0
        return erfc(distance / sqrt(2 * variance)) if variance > 0 else 0.0

    return p


def accepted(p: Callable[[float], float], mean: float, alpha: float) -> tuple[float, float]:
    """The means within [-1, 1] whose p(t) >= alpha, for a p that falls on both sides of `mean`.

    Zero is decided by p(0) itself, so that the interval holds it exactly where p(0) >= alpha.
    """
    zero = p(0.0) >= alpha

    def bound(outermost: float) -> float:
        inside, outside = mean, outermost
        if p(outside) >= alpha:
            return outside
        if (outermost < 0 <= mean) or (outermost > 0 >= mean):  # zero lies on this side
            inside, outside = (0.0, outside) if zero else (mean, 0.0)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if p(middle) >= alpha else (inside, middle)
        return inside

    return bound(-1.0), bound(1.0)


def _design_effect(x: Floats, groups: Groups) -> float:
    if len(groups.sums) == len(x):
        return 1.0
    mean = float(x.mean())
    within = float(((x - mean) ** 2).sum()) * len(x) / (len(x) - 1)
    return max(1.0, (groups.spread(mean) + _PSEUDO * groups.crowding) / (within + _PSEUDO))


def _fraction(x: Floats, mean: float) -> float:
    """The variance of x as a fraction of what values 0 and 1 of its mean have: 1 for these."""
    if np.all((x == 0) | (x == 1)):
        return 1.0
    return (float(((x - mean) ** 2).sum()) + _PSEUDO) / (len(x) * mean * (1 - mean) + _PSEUDO)
