"""How large a difference of paired shares a number of questions can find, before anything is spent on finding it.

The test is that of `paired_difference` on right and wrong answers: of the pairs, a share (the discordance) changes from
wrong to right or back, and the difference is what changes to the better less what changes to the worse. Its power is
that of the score test (Connor 1987, Biometrics 43), for as many pairs as the groups are worth: n / design effect, where
the design effect of groups of m alike pairs is 1 + (m - 1) icc (Kish 1965). Where few pairs change, sign flips of whole
changes cannot reach alpha whatever they are; so power is that of the score test times the chance that enough change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, exp, isfinite, lgamma, log, log1p, log2, sqrt
from statistics import NormalDist

from ...core.errors import UsageError

_STEPS = 1 << 60  # into which the range of a difference is divided
_MOST_GROUPS = 10_000_000


def power(
    difference: float,
    n_groups: int,
    *,
    discordance: float,
    icc: float = 0.0,
    group_size: float = 1.0,
    alpha: float = 0.05,
) -> float:
    """The chance of p < alpha, two-sided, where the true difference of two paired shares is `difference`.

    discordance: share of pairs that change, >= |difference|; icc: correlation of the differences within a group;
    group_size: mean number of pairs in a group. Raises UsageError for numbers out of these ranges.
    """
    worth = _worth(n_groups, discordance, icc, group_size, alpha)
    if not abs(difference) <= discordance:
        raise UsageError(f"of {discordance:g} of the answers that change, no more than that can be a difference")
    normal = NormalDist()
    z = -normal.inv_cdf(alpha / 2)
    size, spread = abs(difference), sqrt(max(discordance - difference**2, 0.0))
    far = sqrt(worth) * size - z * sqrt(discordance)
    reached = float(far > 0) if spread == 0 else normal.cdf(far / spread)
    enough = max(1, ceil(1 - log2(alpha)))  # changes: fewer give p >= 2^(1 - changes) > alpha by sign flips
    return reached * _at_least(enough, worth, discordance)


def minimum_detectable_effect(
    n_groups: int,
    *,
    discordance: float,
    icc: float = 0.0,
    group_size: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float | None:
    """The smallest difference of paired shares that is found with the chance `power`; None where none is.

    No difference is larger than the discordance. Arguments as of `power`; raises UsageError for numbers out of range.
    """
    _worth(n_groups, discordance, icc, group_size, alpha)
    if not 0 < power < 1:
        raise UsageError(f"power must lie strictly between 0 and 1, not {power:g}")

    def found(size: float) -> float:
        return _power(size, n_groups, discordance=discordance, icc=icc, group_size=group_size, alpha=alpha)

    if found(discordance) < power:
        return None
    return discordance * (_least(lambda step: found(discordance * (step / _STEPS)) >= power, 0, _STEPS) / _STEPS)


def groups_needed(
    difference: float,
    *,
    discordance: float,
    icc: float = 0.0,
    group_size: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """The fewest groups with which `difference` is found with the chance `power`; None for no difference.

    Arguments as of `power`; raises UsageError for numbers out of range.
    """

    def found(n: int) -> bool:
        chance = _power(difference, n, discordance=discordance, icc=icc, group_size=group_size, alpha=alpha)
        return chance >= power

    low, high = 1, 2
    while not found(high):
        low, high = high, 2 * high
        if high > _MOST_GROUPS:
            return None
    return _least(found, low, high)


def power_curve(
    differences: Sequence[float],
    n_groups: Sequence[int],
    *,
    discordance: float,
    icc: float = 0.0,
    group_size: float = 1.0,
    alpha: float = 0.05,
) -> list[list[float]]:
    """`power` of each number of groups (rows) for each difference (columns); errors as there."""
    return [
        [_power(d, n, discordance=discordance, icc=icc, group_size=group_size, alpha=alpha) for d in differences]
        for n in n_groups
    ]


_power = power  # where an argument has its name


def _least(found: Callable[[int], bool], low: int, high: int) -> int:
    """The least number above `low` that is `found`, where `high` is and every larger one."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def _worth(n_groups: int, discordance: float, icc: float, group_size: float, alpha: float) -> float:
    """Of how many independent pairs the groups are worth."""
    if n_groups < 2:
        raise UsageError(f"{n_groups} groups: a test needs at least two")
    if not 0 < discordance <= 1 or not 0 <= icc <= 1 or not 0 < alpha < 1:
        raise UsageError(
            f"discordance {discordance:g}, icc {icc:g} and alpha {alpha:g} must be shares, of which only icc may be 0"
        )
    if not (isfinite(group_size) and group_size >= 1):
        raise UsageError(f"groups of {group_size:g} pairs: a group has at least one")
    return n_groups * group_size / (1 + (group_size - 1) * icc)


def _at_least(k: int, n: float, share: float) -> float:
    """The chance of at least k of n (rounded) independent events."""
    trials = round(n)
    if trials < k or share >= 1:
        return float(trials >= k)
    terms = (
        lgamma(trials + 1) - lgamma(j + 1) - lgamma(trials - j + 1) + j * log(share) + (trials - j) * log1p(-share)
        for j in range(k)
    )
    return min(1.0, max(0.0, 1.0 - sum(exp(term) for term in terms)))
