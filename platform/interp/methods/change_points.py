"""Where a curve changes: the ramp that fits it best, level, then a straight change, then level again.

    y(x) = before                                     x <= begins
           before + (after - before) (x - begins) / (ends - begins)
           after                                      x >= ends

Both change points are among the x of the curve; all pairs of them are tried, each by least squares, so that the best is
found and not searched for. A curve that changes more than once has one ramp for each stretch that is looked at.

Some ramp fits any curve a little. `p` is the share of shuffled curves that some ramp fits as well; it tells a curve
from noise that is independent from point to point, and not from a random walk, which wanders and has ramps.
`begins_low` to `begins_high` (and `ends_...`) are the change points of all ramps that an F test at the same confidence
does not tell from the best (profile of the sum of squares; Draper and Smith, Applied Regression Analysis, 24.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
#: points that a ramp takes: its two change points and two levels, and two more to judge it by
FEWEST = 6


class Ramp(NamedTuple):
    """begins, ends: in units of x; before, after: in those of y. explained: share of the variance, 0 to 1."""

    begins: float
    ends: float
    before: float
    after: float
    explained: float
    p: float
    begins_low: float
    begins_high: float
    ends_low: float
    ends_high: float


def best_ramp(x: ArrayLike, y: ArrayLike, *, seed: int, draws: int = 999, confidence: float = 0.95) -> Ramp | None:
    """The ramp that fits y (n,) over ascending x (n,) best; None for fewer than FEWEST points or a constant curve.

    Raises UsageError for x that does not ascend, and for values that are not flat and finite.
    """
    at, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if at.ndim != 1 or at.shape != values.shape or not (np.isfinite(at).all() and np.isfinite(values).all()):
        raise UsageError(f"a curve has finite x and y of one length, not of shapes {at.shape} and {values.shape}")
    if (np.diff(at) <= 0).any():
        raise UsageError("the x of a curve ascend, each once")
    if len(at) < FEWEST or np.ptp(values) == 0.0:
        return None
    first, last = np.triu_indices(len(at), 1)
    shapes = np.clip((at - at[first, None]) / (at[last] - at[first])[:, None], 0.0, 1.0)  # (pairs, n)
    centred = shapes - shapes.mean(1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    explained = _explained(unit, values)
    best = int(explained.argmax())
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(values) for _ in range(draws)], axis=1)
    as_good = int((_explained(unit, shuffled).max(0) >= explained[best]).sum())
    slope = float((centred[best] @ values) / (centred[best] @ centred[best]))
    before = float(values.mean() - slope * shapes[best].mean())
    near = _not_told_apart(explained, best, len(at), confidence)
    begins, ends = at[first[near]], at[last[near]]
    return Ramp(
        float(at[first[best]]), float(at[last[best]]), before, before + slope, float(explained[best]),
        (1 + as_good) / (1 + draws), float(begins.min()), float(begins.max()), float(ends.min()), float(ends.max()),
    )  # fmt: skip


def _explained(unit: Floats, values: Floats) -> Floats:
    """Share of the variance of curves (n,) or (n, curves) that each shape (pairs, n) explains, centred, of norm 1."""
    centred = values - values.mean(0)
    return (unit @ centred) ** 2 / (centred**2).sum(0)


def _not_told_apart(explained: Floats, best: int, n: int, confidence: float) -> NDArray[np.intp]:
    """Numbers of the ramps whose sum of squares an F test with two change points does not tell from the least."""
    left = 1.0 - explained
    allowed = left[best] * (1 - confidence) ** (-2 / (n - 4))  # the quantile of F with 2 and n - 4 degrees of freedom
    return np.flatnonzero(left <= allowed + 1e-12)
