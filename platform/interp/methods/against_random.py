"""Whether a chosen set of channels does more than sets drawn at random: in pairs over prompts, and among the draws.

Two accidents can make a set look special. Other prompts might have shown no difference: prompt by prompt the set's
effect is compared with the mean of the random sets', with an interval and a sign-flip p-value. And any two sets differ,
the more prompts the surer: the set's mean effect has to stand out from those of the draws as well, which is a t-test of
one value against m others (m - 1 degrees of freedom, variance s^2 (1 + 1/m)). A difference counts as shown where both
say so: the p-value is the larger of the two.

The set must not have been chosen on the prompts it is tested on; see `batches.halves`. Pure numpy, seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from ...scoring.statistics import paired_difference

ABOVE, BELOW, NEITHER = "stronger than random", "weaker than random", "no difference shown"


class AgainstRandom(NamedTuple):
    """difference: mean over n prompts of the set's effect minus the mean of the random sets', with the interval over
    prompts. p_prompts: of signs flipped; p_draws: of the t-test against the draws; p: the larger. None where a test is
    not possible: fewer than two prompts, fewer than two draws."""

    n: int
    difference: float | None
    low: float | None
    high: float | None
    p_prompts: float | None
    p_draws: float | None

    @property
    def p(self) -> float | None:
        """The larger of the two p-values; None where one of them is."""
        return None if self.p_prompts is None or self.p_draws is None else max(self.p_prompts, self.p_draws)


def against_random(
    effects: ArrayLike, random: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 2000
) -> AgainstRandom:
    """effects (n,): of the set, prompt by prompt. random (m, n): of m random sets on the same prompts.

    Raises UsageError for other shapes and values that are not finite.
    """
    mine, others = np.asarray(effects, np.float64), np.asarray(random, np.float64)
    if mine.ndim != 1 or others.ndim != 2 or others.shape[1] != len(mine) or not len(others):
        raise UsageError(f"effects (n,) and those of random sets (m, n) do not fit: {mine.shape}, {others.shape}")
    paired = paired_difference(mine, others.mean(0), seed=seed, confidence=confidence, n_resamples=n_resamples)
    p_draws = _outlier_p(float(mine.mean()), others.mean(1)) if len(mine) and len(others) > 1 else None
    return AgainstRandom(paired.n, paired.mean, paired.low, paired.high, paired.p, p_draws)


def verdicts(tests: Sequence[AgainstRandom], corrected: Sequence[float | None], confidence: float) -> list[str | None]:
    """In words, by p-values corrected for their number; None where there is no p-value.

    An effect is a change of log-probability: the more negative, the stronger.
    """
    result: list[str | None] = []
    for test, p in zip(tests, corrected, strict=True):
        if p is None or test.difference is None:
            result.append(None)
        elif p > 1 - confidence:
            result.append(NEITHER)
        else:
            result.append(ABOVE if test.difference < 0 else BELOW)
    return result


def _outlier_p(value: float, others: np.ndarray) -> float:
    """Two-sided p-value of `value` being one more draw of what `others` (m,) were drawn from."""
    from scipy.special import stdtr  # here, because importing it takes time

    m = len(others)
    spread = float(others.std(ddof=1)) * np.sqrt(1 + 1 / m)
    distance = abs(value - float(others.mean()))
    if distance <= 1e-12 * (abs(value) + float(np.abs(others).max())):
        return 1.0
    return float(2 * stdtr(m - 1, -distance / spread)) if spread > 0 else 0.0
