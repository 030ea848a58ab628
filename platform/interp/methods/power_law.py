"""How a measure falls with size: y = A N^-alpha, or with a floor y = E + A N^-alpha; how far to trust its exponent.

Without E the law is a line in logarithms, fitted by least squares of ln y. With E the relative residuals
(E + A N^-alpha - y) / y are least: for each alpha the two others follow from a small non-negative least squares, so
that alpha alone is searched, on a grid and then by golden section around its best point. That is the same for every
resample, and many of them are fitted at once.

Intervals are of questions drawn anew, whole groups of them, the same for all models (percentile bootstrap): what other
questions would have given. They hold neither what another training run would have given nor that the law is none: see
`curvature`, `leave_one_out` and the residuals. Forms: Kaplan et al. 2020 (arXiv 2001.08361), equation 1.1, and Hoffmann
et al. 2022 (arXiv 2203.15556), equation 2 with one of its two terms.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import islice, permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError
from ...scoring.statistics.samples import blocks

Floats = NDArray[np.float64]
#: points that a fit needs, one more than it has free numbers
FEWEST = {False: 3, True: 4}
LEAST, LARGEST = 1e-3, 5.0  # of alpha, with a floor
_GRID = np.geomspace(LEAST, LARGEST, 160)
_HALVINGS = 40
_ORDERS = 5040  # of the models, all of up to seven


class PowerLaw(NamedTuple):
    """alpha, amplitude, floor: (R,) each, of R curves; the floor is 0 where none is fitted. bounded (R,) bool: alpha
    lies at an end of what was searched, or the floor or the amplitude is 0: the points do not tell one."""

    alpha: Floats
    amplitude: Floats
    floor: Floats
    bounded: NDArray[np.bool_]

    def at(self, n: ArrayLike) -> Floats:
        """The measure (R, m) at sizes n (m,)."""
        return self.floor[:, None] + self.amplitude[:, None] * np.asarray(n, np.float64) ** -self.alpha[:, None]


class Judged(NamedTuple):
    """How a fit lies: rms of ln(fitted) - ln y, and its largest size with the number of its point; r2 of ln y;
    curvature: second derivative of ln y by ln N (least squares), 0 for a pure power law, above 0 where a floor is near;
    alpha_least, alpha_most: over fits without one of the points, None where too few would be left; p: share of the
    orders of the models in which a falling power law fits as well."""

    rms: float
    largest: float
    worst: int
    r2: float
    curvature: float
    alpha_least: float | None
    alpha_most: float | None
    p: float


def fit_power_law(sizes: ArrayLike, values: ArrayLike, *, floor: bool = False) -> PowerLaw:
    """Fit values (m,) or (R, m), positive, over sizes (m,), positive.

    Raises UsageError for fewer different sizes than FEWEST, and for values or sizes that are not positive and finite.
    """
    n = np.asarray(sizes, np.float64)
    y = np.atleast_2d(np.asarray(values, np.float64))
    if n.ndim != 1 or y.shape[1:] != n.shape:
        raise UsageError(f"a power law is fitted to values (R, m) over sizes (m,), not {y.shape} over {n.shape}")
    if not (np.isfinite(n).all() and np.isfinite(y).all() and (n > 0).all() and (y > 0).all()):
        raise UsageError("a power law is fitted to sizes and values that are finite and greater than 0")
    if len(np.unique(n)) < FEWEST[floor]:
        raise UsageError(f"a power law {'with' if floor else 'without'} a floor needs {FEWEST[floor]} different sizes, "
                         f"and there are {len(np.unique(n))}")  # fmt: skip
    scale = float(np.exp(np.log(n).mean()))  # alpha does not depend on it, and sizes are near 1 then
    found = _with_floor(n / scale, y) if floor else _line(n / scale, y)
    return found._replace(amplitude=found.amplitude * scale**found.alpha)


def _line(n: Floats, y: Floats) -> PowerLaw:
    x, logs = np.log(n), np.log(y)
    x = x - x.mean()
    slope = logs @ x / (x @ x)
    centre = logs.mean(1) - slope * np.log(n).mean()
    return PowerLaw(-slope, np.exp(centre), np.zeros(len(y)), np.zeros(len(y), np.bool_))


def _with_floor(n: Floats, y: Floats) -> PowerLaw:
    losses = np.stack([_given(np.full(len(y), alpha), n, y)[0] for alpha in _GRID], axis=1)
    best = losses.argmin(1)
    low, high = _GRID[np.maximum(best - 1, 0)], _GRID[np.minimum(best + 1, len(_GRID) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    at_inner, at_outer = _given(inner, n, y)[0], _given(outer, n, y)[0]
    for _ in range(_HALVINGS):  # golden section
        left = at_inner <= at_outer
        low, high = np.where(left, low, inner), np.where(left, outer, high)
        new = np.where(left, high - ratio * (high - low), low + ratio * (high - low))
        at_new = _given(new, n, y)[0]
        inner, outer = np.where(left, new, outer), np.where(left, inner, new)
        at_inner, at_outer = np.where(left, at_new, at_outer), np.where(left, at_inner, at_new)
    alpha = (low + high) / 2
    _, amplitude, floor = _given(alpha, n, y)
    at_end = (alpha < LEAST * 1.01) | (alpha > LARGEST * 0.99)
    return PowerLaw(alpha, amplitude, floor, at_end | (amplitude <= 0.0) | (floor <= 0.0))


def _given(alpha: Floats, n: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Sum of squared relative residuals, amplitude >= 0 and floor >= 0, (R,) each, for alpha (R,)."""
    power, one = n ** -alpha[:, None] / y, 1.0 / y  # regressors of a target that is 1 everywhere
    pp, po, oo = (power * power).sum(1), (power * one).sum(1), (one * one).sum(1)
    p1, o1 = power.sum(1), one.sum(1)
    determinant = pp * oo - po * po
    safe = np.where(determinant > 1e-14 * pp * oo, determinant, np.inf)
    free_amplitude, free_floor = (p1 * oo - o1 * po) / safe, (o1 * pp - p1 * po) / safe
    alone: NDArray[np.bool_] = np.isinf(safe) | (free_floor < 0.0)  # the floor is 0: the amplitude alone
    flat: NDArray[np.bool_] = ~alone & (free_amplitude < 0.0)  # it does not fall: the floor alone
    only: Floats = p1 / pp
    amplitude: Floats = np.where(flat, 0.0, np.where(alone, only, free_amplitude))
    floor: Floats = np.where(flat, o1 / oo, np.where(alone, 0.0, free_floor))
    return ((amplitude[:, None] * power + floor[:, None] * one - 1.0) ** 2).sum(1), amplitude, floor


def judge(sizes: ArrayLike, values: ArrayLike, *, floor: bool = False) -> Judged:
    """How far to trust the fit to values (m,) over sizes (m,). Raises UsageError as `fit_power_law`."""
    n, y = np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    fitted = fit_power_law(n, y, floor=floor).at(n)[0]
    residuals: Floats = np.log(fitted) - np.log(y)
    spread = float(((np.log(y) - np.log(y).mean()) ** 2).sum())
    squared = float((residuals**2).sum())
    x = np.log(n) - np.log(n).mean()
    kept = [np.arange(len(n)) != i for i in range(len(n))]
    enough = all(len(np.unique(n[k])) >= FEWEST[floor] for k in kept)
    without = [float(fit_power_law(n[k], y[k], floor=floor).alpha[0]) for k in kept] if enough else []
    worst = int(np.abs(residuals).argmax())
    return Judged(
        math.sqrt(squared / len(n)), float(residuals[worst]), worst,
        1.0 - squared / spread if spread > 0.0 else 0.0,
        float(curvature(n, y)[0]),
        min(without, default=None), max(without, default=None), _order_p(x, np.log(y)),
    )  # fmt: skip


def curvature(sizes: ArrayLike, values: ArrayLike) -> Floats:
    """Second derivative (R,) of ln y by ln N, of the parabola that fits values (m,) or (R, m) over sizes (m,) best."""
    x = np.log(np.asarray(sizes, np.float64))
    x = x - x.mean()
    squares: Floats = x * x
    bent = squares - squares.mean() - x * float(squares @ x) / float(x @ x)  # at right angles to a line
    logs: Floats = np.log(np.atleast_2d(np.asarray(values, np.float64)))
    return 2.0 * (logs @ bent) / float(bent @ bent)


def _order_p(x: Floats, logs: Floats) -> float:
    """Share of the orders of `logs` (m,), the given one among them, whose slope by x is as negative; of more than seven
    models of the first orders, which move the last seven alone."""
    head, tail = logs[:-7], logs[-7:]
    orders = np.array([[*head, *order] for order in islice(permutations(tail), _ORDERS)])
    slopes = orders @ x
    return float((slopes <= slopes[0] + 1e-12).mean())


def resampled_means(values: ArrayLike, *, groups: Sequence[Hashable], seed: int, resamples: int) -> Floats:
    """Means (resamples, m) of values (questions, m) over groups of questions drawn with replacement, the same for all
    columns. Raises UsageError for fewer than two groups, whose spread is not known."""
    x = np.asarray(values, np.float64)
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(label, len(numbers)) for label in groups], np.int64)
    if len(of) != len(x) or len(numbers) < 2:
        raise UsageError(f"{len(of)} groups for {len(x)} questions: give each its group, and at least two of them")
    sums, counts = np.zeros((len(numbers), x.shape[1])), np.bincount(of).astype(np.float64)
    np.add.at(sums, of, x)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for rows in blocks(resamples, len(numbers)):
        drawn = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=rows).astype(np.float64)
        means.append(drawn @ sums / (drawn @ counts)[:, None])
    return np.concatenate(means)
