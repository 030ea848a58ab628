import numpy as np
from numpy.typing import ArrayLike, NDArray

class LogisticRegression:
    coef_: NDArray[np.float64]
    def __init__(
        self, *, C: float = 1.0, class_weight: str | None = None, max_iter: int = 100, tol: float = 1e-4
    ) -> None: ...
    def fit(self, X: ArrayLike, y: ArrayLike) -> LogisticRegression: ...
