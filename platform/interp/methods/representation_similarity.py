"""How alike two sets of vectors of the same tokens are, whatever basis they are written in.

X (n, p), Y (n, q), K = X X', L = Y Y'; ~ : with a diagonal of zeros.

    linear CKA, debiased   HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),  with the unbiased estimator
        HSIC = [tr(K~ L~) + 1'K~1 1'L~1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K~ L~1] / (n (n - 3))
      (Song et al. 2012, JMLR 13; Kornblith et al. 2019, arXiv 1905.00414; Nguyen et al. 2021, arXiv 2010.15327). About
      0 for unrelated vectors however many channels there are, which the plain one is not; it can be a little below 0.
    SVCCA                  mean canonical correlation of the directions that hold 99 % of the variance of each
      (Raghu et al. 2017, arXiv 1706.05806). Grows by chance with directions over n: read it beside a null.
    Procrustes             ||X'Y||_*, X and Y centred and of Frobenius norm 1: what the best rotation reaches, 0 to 1
      (Ding et al. 2021, arXiv 2108.01661, whose distance is 2 - 2 of it). Grows by chance too.

None changes under rotation and isotropic scaling of either side. float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SHARE = 0.99  # of the variance that SVCCA keeps
_FEWEST = 4  # vectors of the unbiased estimator
MEASURES = ("cka", "svcca", "procrustes")


class Vectors(NamedTuple):
    """Vectors (n, p) with what every comparison needs of them, computed once. unit: centred, of Frobenius norm 1;
    directions (n, k): orthonormal, of most of the variance; own: HSIC(K, K)."""

    centred: Floats
    unit: Floats
    directions: Floats
    own: float


def prepared(x: ArrayLike) -> Vectors | None:
    """None where nothing varies, or of fewer than four vectors."""
    values = np.asarray(x, np.float64)
    if len(values) < _FEWEST:
        return None
    centred = np.where(np.ptp(values, axis=0) > 0, values - values.mean(0), 0.0)
    norm = float(np.linalg.norm(centred))
    if norm == 0.0:
        return None
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(sizes**2), SHARE * float((sizes**2).sum()))) + 1
    unit = centred / norm
    return Vectors(centred, unit, left[:, :kept], hsic(unit, unit))


def similarity(a: Vectors, b: Vectors, order: NDArray[np.int64] | None = None) -> dict[str, float]:
    """`MEASURES` of a and b, whose vectors are taken in `order`; without `cka` where its estimate has no scale."""
    unit, directions = (b.unit, b.directions) if order is None else (b.unit[order], b.directions[order])
    canonical = np.linalg.svd(a.directions.T @ directions, compute_uv=False)
    found = {
        "svcca": float(np.minimum(canonical, 1.0).mean()),
        "procrustes": float(np.linalg.svd(a.unit.T @ unit, compute_uv=False).sum()),
    }
    if a.own > 0 and b.own > 0:
        found["cka"] = hsic(a.unit, unit) / float(np.sqrt(a.own * b.own))
    return found


def hsic(x: Floats, y: Floats) -> float:
    """The unbiased estimator for linear kernels, from the vectors (n, p), (n, q) themselves; n is at least 4."""
    n = len(x)
    own_x, own_y = (x**2).sum(1), (y**2).sum(1)
    cross = float(((x.T @ y) ** 2).sum() - own_x @ own_y)
    rows_x, rows_y = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y
    total = cross + float(rows_x.sum() * rows_y.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(rows_x @ rows_y)
    return total / (n * (n - 3))
