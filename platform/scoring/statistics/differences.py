"""Differences between two ways of answering the same questions: their mean, and whether it is chance.

References: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 15; Holm (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .intervals import bootstrap_mean
from .samples import Floats, blocks, checked

EXACT_SIGN_FLIPS = 16  # 2^16 assignments are enumerated; above that they are drawn


class Difference(NamedTuple):
    """A mean paired difference with its interval, its p-value and the p-value corrected for its family."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000
) -> Difference:
    """mean(a - b) over pairs, with percentile bootstrap interval and sign-flip p-value. a, b: (n,), same order.

    Raises UsageError where they differ in number, and as `bootstrap_mean`.
    """
    x, y = checked(a, confidence), checked(b, confidence)
    if x.shape != y.shape:
        raise UsageError(f"paired values come in equal numbers, not {len(x)} and {len(y)}")
    interval = bootstrap_mean(x - y, seed=seed, confidence=confidence, n_resamples=n_resamples)
    return Difference(*interval, p=sign_flip_p(x - y, seed=seed, n_draws=n_resamples))


def sign_flip_p(differences: ArrayLike, *, seed: int, n_draws: int = 10_000) -> float | None:
    """Two-sided p-value of "each difference is as likely negative as positive".

    The share of sign assignments whose |mean| is at least the observed one; drawn assignments count the observed one
    too, (1 + hits) / (1 + n_draws), so that it is never 0. Zero differences do not matter. differences: (n,); None
    where n < 2. Raises UsageError unless they are flat and finite.
    """
    d = checked(differences)
    if len(d) < 2:
        return None
    moved = d[d != 0]
    if len(moved) == 0:
        return 1.0
    # rounding must not turn the observed assignment, or its mirror image, into a less extreme one
    threshold = abs(moved.sum()) - 1e-12 * np.abs(moved).sum()
    if len(moved) <= EXACT_SIGN_FLIPS:
        codes = np.arange(1 << len(moved))[:, None] >> np.arange(len(moved))
        sums: Floats = (1.0 - 2.0 * (codes & 1)) @ moved
        return float((np.abs(sums) >= threshold).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for rows in blocks(n_draws, len(moved)):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, len(moved)))
        hits += int(np.sum(np.abs(signs @ moved) >= threshold))
    return (1 + hits) / (1 + n_draws)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None (no test was possible) stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected
