"""Principal components: where states lie, seen in the few directions in which they vary most.

    X - mean = U S V^T,   coordinates = U S,   explained variance of component i = S_i^2 / (n - 1)

by an exact singular value decomposition in float64. A component's sign is arbitrary in the mathematics; here its
coordinate of largest size is positive (the first of equals), so that the same states give the same picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import InputError, UsageError
from .arguments import integer

Floats = NDArray[np.float64]


class Projection(NamedTuple):
    """n points in k components. coordinates (n, k); components (k, D): unit vectors; mean (D,).

    variance (k,): of each component, unbiased; ratio (k,): its share of the total variance. Coordinates and variance of
    a component that the points do not reach (fewer than k + 1 of them, or all in fewer dimensions) are 0.
    """

    coordinates: Floats
    components: Floats
    mean: Floats
    variance: Floats
    ratio: Floats


def random_walk_ratio(component: int, points: int) -> float:
    """Share of the variance in `component` (from 0) of a random walk of `points` points in very many dimensions.

    Its centred Gram matrix has the eigenvalues 1 / (4 sin^2(pi k / 2n)) for k = 1 to n - 1, which add up to
    (n^2 - 1) / 6: for long walks the k-th component has 6 / (pi k)^2, 61 % the first and 15 % the second.
    """
    k = component + 1
    if not 1 <= k < points:
        return 0.0
    return 6 / (points**2 - 1) / (4 * np.sin(np.pi * k / (2 * points)) ** 2)


def principal_components(points: ArrayLike, k: int) -> Projection:
    """The first `k` principal components of points (n, D).

    Raises UsageError for k outside of 1 to D, InputError for fewer than two points, for values that are not finite, and
    for points that are all the same: they have no direction.
    """
    x = np.asarray(points, np.float64)
    if x.ndim != 2:
        raise UsageError(f"principal components are of points (n, D), not of shape {x.shape}")
    if integer(k, "the number of components", 1) > x.shape[1]:
        raise UsageError(f"{k!r} components: points of {x.shape[1]} dimensions have 1 to {x.shape[1]}")
    if len(x) < 2:
        raise InputError("principal components need at least two points")
    if not np.isfinite(x).all():
        raise InputError("principal components: a value is not finite")
    mean = x.mean(0)
    # what rounding leaves of a constant is no direction
    centred = np.where(np.ptp(x, axis=0) > 0, x - mean, 0.0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    total = float((values**2).sum())
    if total == 0.0:
        raise InputError("principal components: all points are the same")
    k_known = min(k, len(values))
    signs = np.sign(left[np.abs(left[:, :k_known]).argmax(0), range(k_known)])
    coordinates = np.zeros((len(x), k))
    components = np.zeros((k, x.shape[1]))
    variance = np.zeros(k)
    coordinates[:, :k_known] = left[:, :k_known] * values[:k_known] * signs
    components[:k_known] = right[:k_known] * signs[:, None]
    variance[:k_known] = values[:k_known] ** 2 / (len(x) - 1)
    return Projection(coordinates, components, mean, variance, variance * (len(x) - 1) / total)
