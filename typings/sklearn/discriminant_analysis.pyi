from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

class LinearDiscriminantAnalysis:
    coef_: NDArray[np.float64]
    def __init__(
        self, solver: str = "svd", shrinkage: str | float | None = None, priors: Sequence[float] | None = None
    ) -> None: ...
    def fit(self, X: ArrayLike, y: ArrayLike) -> LinearDiscriminantAnalysis: ...
