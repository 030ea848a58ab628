"""Does an influence fall with distance like an exponential or like a power law?

    ln f(k) = a - k / tau  + noise       or       ln f(k) = a - beta ln k + noise

with normal noise of one size at all distances, both by maximum likelihood (least squares of ln f). Each has three free
numbers, so that the difference of their AIC is n ln(RSS_power / RSS_exponential): above 0 the exponential is better.
One state coordinate falls exponentially; a power law is what many timescales add up to. Influences of neighbouring
distances depend on each other, so that no AIC is taken at its word: the difference counts where its interval, of
resampled prompts, lies on one side of 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
FEWEST = 5  # distances that a fit needs
EXPONENTIAL, POWER_LAW, UNDECIDED = "exponential", "power law", "undecided"
_EXACT = 1e-24  # mean square of residuals that is rounding


class DecayFits(NamedTuple):
    """tau: tokens, infinite where nothing falls; beta; aic_exponential, aic_power: each (R,), of R curves."""

    tau: Floats
    beta: Floats
    aic_exponential: Floats
    aic_power: Floats

    @property
    def difference(self) -> Floats:
        """AIC of the power law less that of the exponential: above 0 the exponential is better."""
        return self.aic_power - self.aic_exponential


def decay_fits(distances: ArrayLike, curves: ArrayLike) -> DecayFits:
    """Both fits to each of the curves (R, K) at distances (K,) of at least 1. Raises UsageError for fewer than FEWEST
    distances and for values that are not above 0."""
    k, f = np.asarray(distances, np.float64), np.asarray(curves, np.float64)
    if k.ndim != 1 or f.ndim != 2 or f.shape[1] != len(k) or len(k) < FEWEST or k.min() < 1:
        raise UsageError(f"curves (R, K) at K distances of at least 1, {FEWEST} at least, not {f.shape} at {k.shape}")
    if not np.isfinite(f).all() or f.min() <= 0:
        raise UsageError("influences that are fitted are finite and above 0")
    (rate, aic_exponential), (beta, aic_power) = _line(k, np.log(f)), _line(np.log(k), np.log(f))
    with np.errstate(divide="ignore"):
        return DecayFits(1 / np.maximum(rate, 0.0), beta, aic_exponential, aic_power)


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Minus the slope of y (R, K) over x (K,), and the AIC of the line."""
    dx, dy = x - x.mean(), y - y.mean(1, keepdims=True)
    slope = dy @ dx / (dx @ dx)
    residual = ((dy - slope[:, None] * dx) ** 2).mean(1)
    n = len(x)
    return -slope, n * (np.log(2 * np.pi * np.maximum(residual, _EXACT)) + 1) + 2 * 3
