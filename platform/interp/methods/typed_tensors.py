"""What torch gives no type to, with one: the numbers of a tensor as lists, lengths of vectors, and what differs."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, cast

import torch
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


def different(x: Tensor) -> list[int]:
    """The different whole numbers of `x`, ascending."""
    return x.unique().tolist()


def different_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows (m, D) of `x` (n, D), ascending, and for each row of `x` which of them it is (n,)."""
    return cast("tuple[Tensor, Tensor]", torch.unique(x, dim=0, return_inverse=True))


def row_basis(x: Tensor) -> Tensor:
    """Orthonormal rows (k, D) that span the rows of `x` (k, D), k <= D; differentiable."""
    return torch.linalg.qr(x.T)[0].T


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (m,) of `x` (n, D), the largest first, and their directions (m, D), m = min(n, D)."""
    _, sizes, directions = torch.linalg.svd(x, full_matrices=False)
    return sizes, directions


def singular_values(x: Tensor) -> Tensor:
    """Of a matrix, the largest first."""
    return torch.linalg.svdvals(x)


def first_reaching(x: Tensor, share: float) -> int:
    """How many of the first of `x` (m,), none negative, reach `share` of their sum; none where that is zero."""
    sums = x.cumsum(0)
    return int((sums < share * sums[-1]).sum()) + 1 if float(sums[-1]) > 0 else 0


def how_many_above(x: Tensor, value: float) -> int:
    """Entries of `x` above `value`."""
    return int((x > value).sum())
