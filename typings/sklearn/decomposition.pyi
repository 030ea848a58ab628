import numpy as np
from numpy.typing import ArrayLike, NDArray

class MiniBatchDictionaryLearning:
    components_: NDArray[np.float64]
    n_steps_: int
    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        max_iter: int = 1000,
        fit_algorithm: str = "lars",
        batch_size: int = 256,
        shuffle: bool = True,
        random_state: int | None = None,
        tol: float = 1e-3,
        max_no_improvement: int | None = 10,
    ) -> None: ...
    def fit(self, X: ArrayLike) -> MiniBatchDictionaryLearning: ...
