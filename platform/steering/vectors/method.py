"""What a method of finding directions is: a function from two sets of activations to one direction. One file each.

    @vector_method("difference_of_means")
    def difference_of_means(examples: Labelled) -> Direction:
        "Mean of the positive texts less that of the negative ones."

The direction leads from the negative texts to the positive ones; its length means nothing, `direction_of` makes it 1.
The contract, tested over everything registered: equal examples and seed give equal directions, swapped labels give the
opposite direction, and a direction planted in noise is found.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.registry import Registry

Direction = NDArray[np.float64]
Activations = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Activations at one site and layer: positive (P, F), negative (N, F), float64. paired: row i of both belongs
    together, and P is N. seed: of whatever a method draws."""

    positive: Activations
    negative: Activations
    paired: bool = False
    seed: int = 0

    def swapped(self) -> Labelled:
        """The same with the labels exchanged."""
        return Labelled(self.negative, self.positive, self.paired, self.seed)


Method = Callable[[Labelled], Direction]
VECTOR_METHODS: Registry[Method] = Registry("vector method", "vector_method", __name__)
vector_method, vector_method_names, find_vector_method = (
    VECTOR_METHODS.itself,
    VECTOR_METHODS.names,
    VECTOR_METHODS.get,
)


def direction_of(method: str, examples: Labelled) -> Direction:
    """The direction (F,) of length 1 that `method` finds. Raises UsageError for a method that is none, InputError where
    activations are not finite or nothing separates the two sets."""
    if not np.isfinite(examples.positive).all() or not np.isfinite(examples.negative).all():
        raise InputError("activations are not finite, so no direction can be fitted to them")
    found = np.asarray(find_vector_method(method)(examples), np.float64)
    length = float(np.linalg.norm(found))
    if not np.isfinite(length) or length == 0.0:
        raise InputError(f"{method}: the positive and the negative texts have equal activations; there is no direction")
    return found / length


def stacked(examples: Labelled) -> tuple[Activations, NDArray[np.int64]]:
    """All activations (P + N, F) and their labels, 1 for positive."""
    sizes = len(examples.positive), len(examples.negative)
    return np.concatenate([examples.positive, examples.negative]), np.repeat([1, 0], sizes)


def in_span(x: Activations, fit: Callable[[Activations], Direction]) -> Direction:
    """`fit` on rows that have at most as many coordinates as there are rows, turned back into those of `x` (n, F).

    A classifier with a rotation-invariant penalty has its weights in the span of the centred rows, so a state with
    thousands of coordinates costs no more than the number of texts.
    """
    if x.shape[1] <= len(x):
        return fit(x)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2]  # (n, F), orthonormal rows
    return fit(x @ axes.T) @ axes


@contextmanager
def one_thread() -> Generator[None]:
    """Sums in one order: threads would add up in an order of their own, and change the last bits."""
    from threadpoolctl import threadpool_limits

    limits: Any = threadpool_limits(1)
    with limits:
        yield
