"""A declared recurrence computed token by token from what its sites hold; not a test file.

Nothing of the package but the declaration is used: no kernels, no analyses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from mplat.models.linear_recurrence import Recurrence
from torch import Tensor


class Recurred(NamedTuple):
    """Of one row: states (T, E, N) as the site `h` shows them, the read-out (T, E) of them, and the skip D x (T, E)."""

    states: Tensor
    read: Tensor
    skip: Tensor


def recur(of: Recurrence, values: Mapping[str, Tensor], prefix: str, without: Collection[int] = ()) -> Recurred:
    """Row 0 of the values of sites below `prefix`; tokens `without` write nothing."""
    x = values[prefix + of.x][0]
    length, width = x.shape
    units = len(of.A)
    unit = torch.arange(width) // (width // units)
    group = unit // (units // of.groups)

    def vectors(given: str | Tensor | None) -> Tensor:
        if isinstance(given, str):
            return values[prefix + given][0].unflatten(-1, (of.groups, -1))
        return (torch.ones(of.groups, of.A.shape[1]) if given is None else given).expand(length, -1, -1)

    delta = torch.ones(length, units) if of.delta is None else values[prefix + of.delta][0]
    B, C = vectors(of.B), vectors(of.C)
    h, states, read = torch.zeros(width, max(of.A.shape[1], B.shape[2]), dtype=of.A.dtype), [], []
    for t in range(length):
        step = delta[t, unit, None].double()
        weight = 1 - torch.exp(-step) if of.averaging else step
        h = torch.exp(step * of.A[unit]) * h
        if t not in without:
            h = h + weight * B[t, group] * x[t, :, None]
        states.append(h)
        read.append((C[t, group] * h).sum(-1).real)
    shown = torch.stack(states)
    if shown.is_complex():
        shown = torch.view_as_real(shown).flatten(-2)
    D = torch.zeros(units) if of.D is None else of.D
    return Recurred(shown, torch.stack(read), D[unit] * x)


def read_matrix(of: Recurrence, values: Mapping[str, Tensor], prefix: str) -> Tensor:
    """(E, T, T): what the output of token i reads of what token j wrote."""
    length = values[prefix + of.x].shape[1]
    every = set(range(length))
    columns = [recur(of, values, prefix, without=every - {j}).read for j in range(length)]
    return torch.stack(columns, -1).movedim(1, 0)
