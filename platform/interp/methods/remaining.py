"""What remains of an answer when part of a model is replaced: 1 everything, 0 as much as with the part's mean.

    share = sum (patched - floor) / sum (clean - floor)

over questions, floor being the score with the part at its mean over questions. The interval is a percentile bootstrap
that draws whole groups of questions. Where the mean costs nothing for certain there is nothing to restore, and the
share would be a ratio to noise: it is not given. Pure numpy, seeded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from ...scoring.statistics.samples import Floats, blocks, checked, grouped


class Remaining(NamedTuple):
    """cost: mean of clean - floor over n questions, with its interval. share: see the module, with its interval; None
    where the interval of cost reaches zero, or for fewer than two groups."""

    n: int
    cost: float | None
    cost_low: float | None
    cost_high: float | None
    share: float | None
    low: float | None
    high: float | None


def remaining(
    patched: ArrayLike,
    clean: ArrayLike,
    floor: ArrayLike,
    *,
    groups: Sequence[Hashable],
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> Remaining:
    """patched, clean, floor (n,): the answers' scores, such as log-probabilities, on the same questions; groups (n,).

    Raises UsageError where the numbers differ or a value is not finite.
    """
    p, c, f = (checked(values, confidence) for values in (patched, clean, floor))
    if not len(p) == len(c) == len(f) == len(groups):
        raise UsageError(f"scores and groups come in equal numbers, not {len(p)}, {len(c)}, {len(f)}, {len(groups)}")
    if not len(p):
        return Remaining(0, None, None, None, None, None, None)
    kept, whole = grouped(p - f, groups), grouped(c - f, groups)
    cost = float((c - f).mean())
    if len(whole.sums) < 2:
        return Remaining(len(p), cost, None, None, None, None, None)
    rng = np.random.default_rng(seed)
    costs: list[Floats] = []
    shares: list[Floats] = []
    for rows in blocks(n_resamples, len(whole.sums)):
        chosen = rng.integers(0, len(whole.sums), size=(rows, len(whole.sums)))
        total = whole.sums[chosen].sum(1)
        costs.append(total / whole.counts[chosen].sum(1))
        shares.append(np.divide(kept.sums[chosen].sum(1), total, out=np.full(rows, np.nan), where=total != 0))
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = (float(bound) for bound in np.quantile(np.concatenate(costs), tails))
    if low <= 0:
        return Remaining(len(p), cost, low, high, None, None, None)
    bounds: Floats = np.nanquantile(np.concatenate(shares), tails)
    share = float(kept.sums.sum() / whole.sums.sum())
    return Remaining(len(p), cost, low, high, share, float(bounds[0]), float(bounds[1]))
