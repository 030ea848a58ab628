"""What torch gives no type to, with one: the numbers of a tensor as lists, lengths of vectors, what differs, and
linear algebra."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor


def ints(x: Tensor) -> list[int]:
    """The whole numbers of `x` (n,)."""
    return x.tolist()


def floats(x: Tensor) -> list[float]:
    """The numbers of `x` (n,)."""
    return x.tolist()


def nested(x: Tensor) -> list[Any]:
    """The numbers of `x` (n, ...), in lists as deep as it has axes."""
    return x.tolist()


def lengths(x: Tensor) -> Tensor:
    """Euclidean length (...) of each vector of `x` (..., n)."""
    return x.norm(dim=-1)


def unit_rows(x: Tensor) -> Tensor:
    """The rows of `x` (n, C) with a length of 1; a row of zeros stays one."""
    tiny = torch.finfo(x.dtype).tiny
    return x / lengths(x)[:, None].clamp(min=tiny)


def pieces(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """`x` (n, ...) cut into parts of `size` rows, the last one shorter."""
    return x.split(size)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The array's memory as a tensor."""
    return torch.from_numpy(array)


def eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), ascending, of a symmetric matrix, and their vectors, the columns (n, n)."""
    found = torch.linalg.eigh(symmetric)
    return found.eigenvalues, found.eigenvectors


def singular_values(x: Tensor) -> Tensor:
    """Of a matrix, descending."""
    return torch.linalg.svdvals(x)


def triangular_solved(upper: Tensor, right: Tensor) -> Tensor:
    """x (..., k) of `upper` (..., k, k) x = `right` (..., k)."""
    return torch.linalg.solve_triangular(upper, right[..., None], upper=True)[..., 0]


def different(x: Tensor) -> list[int]:
    """The different whole numbers of `x`, ascending."""
    return x.unique().tolist()


def different_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows (m, D) of `x` (n, D), ascending, and for each row of `x` which of them it is (n,)."""
    return cast("tuple[Tensor, Tensor]", torch.unique(x, dim=0, return_inverse=True))
