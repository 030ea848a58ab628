import numpy as np
from numpy.typing import ArrayLike, NDArray

class KMeans:
    labels_: NDArray[np.int32]
    cluster_centers_: NDArray[np.float64]
    def __init__(self, n_clusters: int = 8, *, n_init: int = 10, random_state: int | None = None) -> None: ...
    def fit(self, X: ArrayLike) -> KMeans: ...
