"""Small functions with named matrices whose mechanisms are known; not a test file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mplat.interp.methods.matrix_function import Layer, Matrix
from torch import Tensor


class Toy:
    """Base: `examples` are rows of `data` (N, in). only: the matrices to decompose, default all."""

    def __init__(self, data: Tensor, weights: Mapping[str, Tensor], only: Sequence[str] | None = None) -> None:
        self.data, self.weights = data, weights
        self.matrices = {name: Matrix(weights[name]) for name in only or weights}

    def counted(self, examples: Tensor) -> None:
        return None

    def act(self, name: str, layers: Mapping[str, Layer], a: Tensor) -> Tensor:
        return layers[name](a) if name in layers else a @ self.weights[name].T


class Superposition(Toy):
    """The toy model of superposition 5-2: relu(W^T W x + b), the columns of W (2, 5) a pentagon.

    Inputs are 0 or, with probability `active`, uniform in (0, 1). Mechanisms: one column of `in`, one row of `out`
    each.
    """

    def __init__(
        self,
        rows: int = 8192,
        active: float = 0.05,
        empty: float = 0.05,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        only: Sequence[str] | None = None,
    ) -> None:
        angles = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
        self.W = (math.sqrt(1.3) * torch.stack([angles.cos(), angles.sin()])).to(dtype)
        generator = torch.Generator().manual_seed(seed)
        on = torch.rand(rows, 5, generator=generator) < active
        seldom = torch.rand(rows, generator=generator) < empty
        on = on[on.any(1) | seldom]
        rows = len(on)
        data = (torch.rand(rows, 5, generator=generator) * on).to(dtype)
        super().__init__(data, {"in": self.W, "out": self.W.T.contiguous()}, only)

    def __call__(self, examples: Tensor, layers: Mapping[str, Layer]) -> Tensor:
        h = self.act("in", layers, self.data[examples])
        return torch.relu(self.act("out", layers, h) - 0.27)

    def mechanisms(self) -> dict[str, Tensor]:
        """name -> (5, out, in)."""
        one = torch.eye(5, dtype=self.W.dtype)
        columns = torch.einsum("of,fi->foi", self.W, one)
        return {"in": columns, "out": columns.transpose(1, 2)}


class TwoCircuits(Toy):
    """out relu(first x): two circuits of rank one in each of two matrices, the first for inputs along axis 0 or 1, the
    second for those along 2 or 3; no example has both.

    Circuit k: `first` takes the sum of its two inputs to a direction a_k of four units, `second` takes the same units
    to output k. Mechanisms: name -> (2, out, in).
    """

    def __init__(self, rows: int = 512, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        reads = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=dtype)
        units = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.7, 1.0]], dtype=dtype)
        self.first = torch.einsum("ku,ki->kui", units, reads)
        self.second = torch.einsum("ko,ku->kou", torch.eye(2, dtype=dtype) * 1.5, units)
        self.circuit = torch.randint(0, 2, (rows,), generator=generator)
        strength = 0.3 + 0.7 * torch.rand(rows, 2, generator=generator)
        data = torch.zeros(rows, 4, dtype=dtype)
        for k in (0, 1):
            data[self.circuit == k, 2 * k : 2 * k + 2] = strength[self.circuit == k].to(dtype)
        super().__init__(data, {"first": self.first.sum(0), "second": self.second.sum(0)})

    def __call__(self, examples: Tensor, layers: Mapping[str, Layer]) -> Tensor:
        h = torch.relu(self.act("first", layers, self.data[examples]))
        return self.act("second", layers, h)

    def mechanisms(self) -> dict[str, Tensor]:
        """name -> (2, out, in)."""
        return {"first": self.first, "second": self.second}
