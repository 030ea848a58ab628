"""Linear maps from one model's activations to another's, fitted on some questions to be judged on others.

    y ~ to_mean + (x - from_mean) weight

`ridge`: least squares with a penalty that is chosen by leaving out one question at a time, in closed form.
`procrustes`: the rotation or reflection, with one factor for all, that brings x nearest to y (Schoenemann 1966);
between spaces of different width its matrix has orthonormal rows or columns.

Only linear maps: a map that may be any function can carry the behaviour of a model into one with random weights and
make any two causally equivalent (Sutter et al. 2025, arXiv 2507.08802), so that what it shows is its own strength. Pure
numpy, float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
#: penalties, in units of the mean squared singular value of x
STRENGTHS = tuple(10.0**power for power in range(-8, 3))


class LinearMap(NamedTuple):
    """weight (p, q), from_mean (p,), to_mean (q,). strength: of the ridge's penalty; None of a rotation."""

    weight: Floats
    from_mean: Floats
    to_mean: Floats
    strength: float | None = None

    def of(self, x: ArrayLike) -> Floats:
        """What it makes of x (n, p), (n, q)."""
        return self.to_mean + (np.asarray(x, np.float64) - self.from_mean) @ self.weight


def ridge(x: ArrayLike, y: ArrayLike, strengths: Sequence[float] = STRENGTHS) -> LinearMap:
    """The map from x (n, p) to y (n, q) with the penalty of `strengths` that predicts questions left out best.

    The mean is not penalised. What is left of question i when it is left out is its residual over 1 - h_ii, h the hat
    matrix. Raises UsageError for other shapes or fewer than three questions.
    """
    a, b, from_mean, to_mean = _centred(x, y)
    left, sizes, right = np.linalg.svd(a, full_matrices=False)
    unit = float((sizes**2).mean())
    if unit == 0.0:  # x does not vary: the mean is all there is
        return LinearMap(np.zeros((a.shape[1], b.shape[1])), from_mean, to_mean, float(strengths[-1]))
    seen = left.T @ b
    errors: list[float] = []
    for strength in strengths:
        kept = sizes**2 / (sizes**2 + strength * unit)
        residual = b - left @ (kept[:, None] * seen)
        free = 1 - 1 / len(a) - (left**2) @ kept
        errors.append(float(((residual / np.maximum(free, 1e-12)[:, None]) ** 2).sum()))
    best = float(strengths[int(np.argmin(errors))])
    shrunk = sizes / (sizes**2 + best * unit)
    return LinearMap(right.T @ (shrunk[:, None] * seen), from_mean, to_mean, best)


def procrustes(x: ArrayLike, y: ArrayLike) -> LinearMap:
    """The orthogonal map from x (n, p) to y (n, q), times one factor. Raises UsageError as `ridge`."""
    a, b, from_mean, to_mean = _centred(x, y)
    left, sizes, right = np.linalg.svd(a.T @ b, full_matrices=False)
    turn = left @ right
    norm = float(((a @ turn) ** 2).sum())
    return LinearMap((float(sizes.sum()) / norm if norm > 0 else 0.0) * turn, from_mean, to_mean)


MAPS: Mapping[str, Callable[[ArrayLike, ArrayLike], LinearMap]] = {"ridge": ridge, "procrustes": procrustes}


def explained(fitted: LinearMap, x: ArrayLike, y: ArrayLike) -> float | None:
    """Share of the variance of y (n, q) around the fitted mean that the map explains; None where there is none."""
    truth = np.asarray(y, np.float64)
    total = float(((truth - fitted.to_mean) ** 2).sum())
    return 1 - float(((truth - fitted.of(x)) ** 2).sum()) / total if total > 0 else None


def _centred(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 3:
        raise UsageError(f"a map is fitted to (questions, channels) of three questions, not {a.shape} and {b.shape}")
    return a - a.mean(0), b - b.mean(0), a.mean(0), b.mean(0)
