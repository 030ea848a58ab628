"""Vectors that something is learnt from: numbered, read a few at a time, wherever they are.

Training and measures take `Examples`; `Held` has them in memory, `StoredExamples` reads chosen rows of the activation
store, which it holds where they are few enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..activation_store import Activations, Stored

CHUNK = 4096  # vectors read at once
_HELD_BYTES = 2**28  # more than these are read again whenever they are asked for


class Examples(Protocol):
    """n vectors of `width` numbers, float32."""

    width: int

    def __len__(self) -> int: ...

    def __call__(self, rows: Tensor) -> Tensor: ...


class Held:
    """x (n, C) in memory."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.width = x.float(), x.shape[1]

    def __len__(self) -> int:
        return len(self.x)

    def __call__(self, rows: Tensor) -> Tensor:
        """(len(rows), C)."""
        return self.x[rows]


class StoredExamples:
    """The rows `rows` of one place of the activation store."""

    def __init__(self, store: Activations, place: Stored, rows: NDArray[np.int64]) -> None:
        self.store, self.place, self.rows, self.width = store, place, rows, place.width
        small = len(rows) * place.width * 4 <= _HELD_BYTES
        self._held = store.values(place, rows) if small else None

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, rows: Tensor) -> Tensor:
        """(len(rows), C)."""
        if self._held is not None:
            return self._held[rows]
        return self.store.values(self.place, self.rows[rows.numpy()])


def chunks(examples: Examples, size: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """All vectors in order, at most `size` at a time, with the number of the first."""
    for start in range(0, len(examples), size):
        yield start, examples(torch.arange(start, min(start + size, len(examples))))


def spread_rows(n: int, count: int) -> Tensor:
    """At most `count` of the numbers 0 to n - 1, at equal steps."""
    count = min(n, count)
    return torch.arange(count) * n // max(1, count)


def moments(examples: Examples) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) over all vectors, divided by n; float64."""
    n, width = len(examples), examples.width
    mean = torch.zeros(width, dtype=torch.float64)
    for _, x in chunks(examples):
        mean += x.double().sum(0)
    mean /= n
    squares = torch.zeros(width, width, dtype=torch.float64)
    for _, x in chunks(examples):
        centred = x.double() - mean
        squares += centred.T @ centred
    return mean, squares / n
