from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

class MLPRegressor:
    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = ...,
        solver: str = ...,
        alpha: float = ...,
        max_iter: int = ...,
        tol: float = ...,
        random_state: int = ...,
    ) -> None: ...
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self: ...
    def predict(self, X: ArrayLike) -> NDArray[np.float64]: ...
