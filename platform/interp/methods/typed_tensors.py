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


def triangular_solved(upper: Tensor, right: Tensor) -> Tensor:
    """x (..., k) of `upper` (..., k, k) x = `right` (..., k)."""
    return torch.linalg.solve_triangular(upper, right[..., None], upper=True)[..., 0]


def column_lengths(x: Tensor) -> Tensor:
    """Euclidean length (..., n) of each column vector of `x` (..., m, n)."""
    return x.norm(dim=-2)


def pseudo_inverse(x: Tensor) -> Tensor:
    """Moore and Penrose's inverse (n, m) of `x` (m, n)."""
    return torch.linalg.pinv(x)


def cut(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Rows of `x` (N, ...) in parts of these sizes."""
    return torch.split(x, sizes)


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
