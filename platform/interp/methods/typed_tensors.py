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
