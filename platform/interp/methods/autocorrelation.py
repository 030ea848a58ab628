"""How much of a sequence of vectors is still there some tokens later: its autocorrelation.

    r(k) = [sum_t <x_t - m, x_{t+k} - m> / (T - k)] / [sum_t |x_t - m|^2 / T],     m the mean over the T vectors

so that a channel counts by its variance; `by_channel` averages the channels' own r(k). Exactly -1 / (T - 1) is to be
expected of the same vectors in random order, for every lag: the mean was taken from themselves. For a long AR(1)
process x_t = phi x_{t-1} + e_t, r(k) is phi^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: lags that a text has are at most its length over this: what is left to average over
LENGTHS_A_LAG = 2


class Autocorrelation(NamedTuple):
    """At one lag. pooled: weighted by variance; by_channel: mean over the channels that vary."""

    lag: int
    pooled: float
    by_channel: float


def autocorrelation(x: ArrayLike, lags: Sequence[int]) -> list[Autocorrelation]:
    """Of x (T, C), in its own precision, at those of the lags that the text is long enough for; none where nothing
    varies."""
    values = np.asarray(x)
    length = len(values)
    centred = (values - values.mean(0)) * (values != values[0]).any(0)  # rounding leaves something of a constant
    variance = (centred**2).mean(0)
    varies = variance > 0
    if not varies.any():
        return []
    found: list[Autocorrelation] = []
    for lag in lags:
        if lag * LENGTHS_A_LAG > length:
            continue
        together = np.einsum("tc,tc->c", centred[: length - lag], centred[lag:]) / (length - lag)
        own = together[varies] / variance[varies]
        found.append(Autocorrelation(lag, float(together.sum() / variance.sum()), float(own.mean())))
    return found


def expected_of_shuffled(length: int) -> float:
    """r(k) to be expected of `length` vectors in random order."""
    return -1.0 / (length - 1)
