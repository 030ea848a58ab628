"""Groups of points, their number chosen by silhouette: k-means of scikit-learn, seeded.

The silhouette of a point is (b - a) / max(a, b), a its mean distance to its own cluster and b that to the nearest other
one (Rousseeuw 1987): near 1 for clusters far apart, near 0 where the borders are arbitrary. k-means cuts any cloud
into as many parts as asked; only the silhouette says whether there are parts. So the best mean silhouette is always
returned, and it is for the reader to say what is enough; below 0.25 it is usually taken to show no structure (Kaufman
and Rousseeuw 1990).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import InputError, UsageError
from .arguments import integer

RESTARTS = 10  # of k-means, of which the tightest counts
_SILHOUETTE_POINTS = 2000  # more are sampled: the silhouette compares every pair


class Clusters(NamedTuple):
    """labels (n,): cluster of each point, 0 the largest. centres (k, D). silhouette: mean over points.

    tried: number of clusters -> mean silhouette, of which k has the largest (the fewest of equals).
    """

    labels: NDArray[np.int64]
    centres: NDArray[np.float64]
    silhouette: float
    tried: dict[int, float]

    @property
    def k(self) -> int:
        """How many clusters."""
        return len(self.centres)


def cluster(points: ArrayLike, *, largest: int = 8, seed: int = 0) -> Clusters:
    """Clusters of points (n, D), 2 to `largest` of them (fewer where there are fewer different points).

    The same points and seed give the same clusters. Raises UsageError for `largest` below 2, InputError for values
    that are not finite, and for fewer than three different points: every cut of two is as good as any other.
    """
    x = np.asarray(points, np.float64)
    if x.ndim != 2:
        raise UsageError(f"clusters are of points (n, D), not of shape {x.shape}")
    largest = integer(largest, "largest, the number of clusters to try at most,", 2)
    if not np.isfinite(x).all():
        raise InputError("clusters: a value is not finite")
    different = len(np.unique(x, axis=0))
    if different < 3:
        raise InputError(f"clusters: {different} different points; at least three are needed")
    from sklearn.cluster import KMeans  # here, because importing it takes a second
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    sample = min(len(x), _SILHOUETTE_POINTS)
    best: tuple[float, NDArray[np.int64], NDArray[np.float64]] | None = None
    tried: dict[int, float] = {}
    with threadpool_limits(1):  # threads would add up in an order of their own, and change the last bits
        for k in range(2, min(largest, different - 1) + 1):
            clusters = KMeans(k, n_init=RESTARTS, random_state=seed).fit(x)
            labels = np.asarray(clusters.labels_, np.int64)
            tried[k] = float(silhouette_score(x, labels, sample_size=sample, random_state=seed))
            if best is None or tried[k] > best[0]:
                best = tried[k], labels, np.asarray(clusters.cluster_centers_)
    assert best is not None
    return Clusters(*_by_size(best[1], best[2]), best[0], tried)


def agreement(labels: Sequence[Hashable], others: Sequence[Hashable]) -> float:
    """Adjusted Rand index of two partitions of the same points (Hubert and Arabie 1985): 1 if equal, 0 by chance."""
    from sklearn.metrics import adjusted_rand_score

    numbers = [{of: i for i, of in enumerate(dict.fromkeys(part))} for part in (labels, others)]
    return float(adjusted_rand_score([numbers[0][of] for of in labels], [numbers[1][of] for of in others]))


def _by_size(labels: NDArray[np.int64], centres: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels renumbered by size, the largest first; of equals the one whose first member comes first."""
    sizes = np.bincount(labels, minlength=len(centres))
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(len(centres))]
    order = sorted(range(len(centres)), key=lambda c: (-sizes[c], first[c]))
    number = np.argsort(order)
    return number[labels], centres[order]
