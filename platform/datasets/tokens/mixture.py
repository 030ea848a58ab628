"""In which order sets are drawn: shares that are as exact at every moment as whole rows can be.

The quota method of apportionment (M. L. Balinski and H. P. Young, American Mathematical Monthly 82, 1975) hands out
seats one by one, and after every one each set has its share rounded down or up. Which set comes at a position follows
from the weights alone; after sum(weights) positions it starts again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...core.compiled_loops import compiled

_MOST = 2**31  # products of two such numbers fit into int64


def quotas(rows: Sequence[int], weights: Sequence[float]) -> NDArray[np.int64]:
    """Smallest whole numbers in the ratio weights * rows: by them a set of weight 2 is read twice while one of weight 1
    is read once. Beyond 2^31 in all they are rounded, which changes a share by less than 1e-9."""
    exact = [Fraction(str(weight)) * n for n, weight in zip(rows, weights, strict=True)]
    common = math.lcm(*(value.denominator for value in exact))
    whole = [int(value * common) for value in exact]
    divisor = math.gcd(*whole) or 1
    whole = [value // divisor for value in whole]
    total = sum(whole)
    if total > _MOST:
        whole = [max(1, value * (_MOST - len(whole)) // total) if value else 0 for value in whole]
    return np.array(whole, dtype=np.int64)


class Mixture:
    """The sequence of sets for `quota` (S,), of which at least one is above 0."""

    def __init__(self, quota: NDArray[np.int64]) -> None:
        self._quota = quota
        self._total = int(quota.sum())
        assert 0 < self._total <= _MOST and (quota >= 0).all()
        self._reached = (0, np.zeros(len(quota), dtype=np.int64))  # a position within a period, draws of each set there

    @property
    def shares(self) -> NDArray[np.float64]:
        """(S,) of all draws."""
        return self._quota / self._total

    def draws(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For positions first..first+count-1 the set, and how often that set was drawn before: both (count,).

        A pure function of the arguments; going on from the last call's end is fast, elsewhere it counts from the
        period's start (some 20 ns a position and set).
        """
        period, position = divmod(first, self._total)
        at, counts = self._reached
        counts = counts.copy() if at <= position else np.zeros_like(counts)
        at = at if at <= position else 0
        sets, numbers = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        done = 0
        while True:
            take = min(count - done, self._total - position)
            apportion(self._quota, self._total, at, position, counts, sets[done : done + take], numbers[done:])
            numbers[done : done + take] += period * self._quota[sets[done : done + take]]
            done += take
            if done == count:
                break
            period, position, at = period + 1, 0, 0
            counts[:] = 0
        self._reached = (position + take, counts) if position + take < self._total else (0, np.zeros_like(counts))
        return sets, numbers


@compiled
def apportion(quota, total, at, first, counts, sets, numbers):
    """Positions at..first+len(sets)-1; those from `first` on are written. counts (S,): draws before `at`, updated."""
    for position in range(at, first + len(sets)):
        chosen = -1
        for s in range(len(quota)):
            # one more must not exceed the share rounded up; of those the set that is longest due
            if counts[s] * total < quota[s] * (position + 1) and (
                chosen < 0 or (counts[s] + 1) * quota[chosen] < (counts[chosen] + 1) * quota[s]
            ):
                chosen = s
        if position >= first:
            sets[position - first] = chosen
            numbers[position - first] = counts[chosen]
        counts[chosen] += 1
