"""Sign flips of whole groups: a p-value, and the interval that it implies.

If differences are as likely negative as positive, turning the sign of all differences of a group changes nothing. The
p-value of "the mean is t" is the share of sign assignments for which the sum of (difference - t) is at least as far
from zero as the observed one. For a single assignment those t are an interval: it lies between the mean of the groups
that are turned and the mean of the others (the typical values of Hartigan 1969). So p(t) is the share of these
intervals that hold t, it falls on both sides of the observed mean, and the values of t with p(t) >= alpha are an
interval that excludes zero exactly where p(0) < alpha. A group's sum of squares is the same under all assignments, so
the studentised test is this one too.

Exact for up to 16 groups with a difference: all their assignments are there, and the groups without one, which do not
matter for t = 0, have random signs in each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .samples import Floats, Groups, blocks, checked, grouped

EXACT_SIGN_FLIPS = 16  # 2^16 assignments are enumerated; above that they are drawn
_ROUNDING = 1e-12  # of the sum of sizes: an assignment may not look less extreme than its equal by rounding


class FlipTest(NamedTuple):
    """p: of a mean of zero; low, high: the means with p >= 1 - confidence, infinite where all of one side have it."""

    p: float
    low: float
    high: float


def sign_flip_p(
    differences: ArrayLike, *, seed: int, n_draws: int = 10_000, groups: Sequence[Hashable] | None = None
) -> float | None:
    """Two-sided p-value of "each group's sum of differences is as likely negative as positive".

    The share of sign assignments whose |mean| is at least the observed one; drawn assignments count the observed one
    too, (1 + hits) / (1 + n_draws), so that it is never 0. Groups that sum to zero do not matter. differences: (n,);
    groups: (n,) labels, None: each difference is its own. None for fewer than two groups. Raises UsageError unless the
    differences are flat and finite, and where the numbers of labels and differences differ.
    """
    d = grouped(checked(differences), groups)
    if len(d.sums) < 2:
        return None
    moved = d.sums[d.sums != 0]
    hits, drawn = 0, 0
    for signs in _assignments(len(moved), n_draws, seed):
        hits += int(_as_extreme(signs @ moved, moved).sum())
        drawn += len(signs)
    observed = 1 if len(moved) > EXACT_SIGN_FLIPS else 0
    return (observed + hits) / (observed + drawn)


def flip_test(d: Groups, *, alpha: float, seed: int, n_draws: int) -> FlipTest:
    """The test of at least two groups and the interval of the mean over values, of confidence 1 - alpha."""
    still = d.sums == 0
    moved, sizes = d.sums[~still], d.counts[~still]
    still_sizes, still_numbers = np.unique(d.counts[still], return_counts=True)
    total, n = float(moved.sum()), float(d.counts.sum())
    exact = len(moved) <= EXACT_SIGN_FLIPS
    repeats = -(-n_draws // (1 << len(moved))) if exact and still.any() else 1
    rng = np.random.default_rng([seed, 1])  # beside the signs of `sign_flip_p`, which these are too
    lows: list[Floats] = []
    highs: list[Floats] = []
    hits = 0
    for signs in _assignments(len(moved), n_draws, seed):
        turned_sum, turned_size = signs @ moved, signs @ sizes
        extreme = np.tile(_as_extreme(turned_sum, moved), repeats)
        turned_sum = np.tile(turned_sum, repeats)
        hits += int(extreme.sum())
        pluses = rng.binomial(still_numbers, 0.5, size=(len(extreme), len(still_numbers)))
        size = np.tile(turned_size, repeats) + (2.0 * pluses - still_numbers) @ still_sizes
        with np.errstate(divide="ignore", invalid="ignore"):
            turned: Floats = (total - turned_sum) / (n - size)
            others: Floats = (total + turned_sum) / (n + size)
        whole = np.abs(size) == n  # nothing or everything is turned: as extreme, whatever the mean
        low: Floats = np.where(whole, -np.inf, np.fmin(turned, others))
        high: Floats = np.where(whole, np.inf, np.fmax(turned, others))
        lows.append(np.where(extreme, np.minimum(low, 0.0), low))
        highs.append(np.where(extreme, np.maximum(high, 0.0), high))
    observed = 0 if exact else 1
    rising, falling = np.sort(np.concatenate(lows)), np.sort(np.concatenate(highs))[::-1]
    shares = (observed + np.arange(len(rising) + 1)) / (observed + len(rising))  # p where 0, 1, ... intervals hold t
    p, needed = float(shares[hits]), int(np.searchsorted(shares, alpha))
    return (
        FlipTest(p, float(rising[needed - 1]), float(falling[needed - 1])) if needed else FlipTest(p, -np.inf, np.inf)
    )


def _assignments(n: int, n_draws: int, seed: int) -> Iterator[Floats]:
    """Blocks (rows, n) of signs 1 and -1: all assignments of up to EXACT_SIGN_FLIPS signs, else `n_draws` random."""
    if n <= EXACT_SIGN_FLIPS:
        codes = np.arange(1 << n)[:, None] >> np.arange(n)
        yield np.where(codes & 1, -1.0, 1.0)
        return
    rng = np.random.default_rng(seed)
    for rows in blocks(n_draws, n):
        yield np.where(rng.integers(0, 2, size=(rows, n)), -1.0, 1.0)


def _as_extreme(sums: Floats, moved: Floats) -> NDArray[np.bool_]:
    return np.abs(sums) >= abs(moved.sum()) - _ROUNDING * np.abs(moved).sum()
