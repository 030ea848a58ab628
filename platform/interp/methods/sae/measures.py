"""What a sparse dictionary is measured by, over many activations: a pass through them, in float64 sums.

Definitions: explained variance 1 - sum |x - x'|^2 / sum |x - mean|^2 over all channels together. L0: latents above 0 a
token. Density of a latent: share of tokens at which it is above 0; dead: at none. Mean max cosine (MMCS) of A with B:
over the rows of A, the mean of the largest cosine with a row of B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..typed_tensors import pieces, unit_rows
from .dictionary import SparseDictionary
from .examples import Examples, chunks


class Measured(NamedTuple):
    """density, mean_active (0 for a dead latent) and largest (F,): of each latent, over n tokens."""

    n: int
    explained_variance: float
    l0: float
    density: Tensor
    mean_active: Tensor
    largest: Tensor

    @property
    def dead_share(self) -> float:
        """Share of latents that no token activates."""
        return float((self.density == 0).double().mean())

    @property
    def dense_share(self) -> float:
        """Share of latents that more than a tenth of the tokens activate."""
        return float((self.density > 0.1).double().mean())


@torch.no_grad()
def measure(dictionary: SparseDictionary, examples: Examples) -> Measured:
    """Over all `examples`, of which there is one at least."""
    n, width = len(examples), examples.width
    total, squares, error = torch.zeros(width, dtype=torch.float64), 0.0, 0.0
    active = torch.zeros(dictionary.n_latents, dtype=torch.float64)
    sums, most = torch.zeros_like(active), torch.zeros_like(active)
    origin = dictionary.b_dec.double()  # near the mean, so that the sum of squares does not cancel
    for _, x in chunks(examples):
        f = dictionary.latents(x)
        error += float(((x - dictionary.decoded(f)).double() ** 2).sum())
        away = x.double() - origin
        total += away.sum(0)
        squares += float((away**2).sum())
        active += (f > 0).double().sum(0)
        sums += f.double().sum(0)
        most = torch.maximum(most, f.double().amax(0))
    variance = squares - float((total**2).sum()) / n
    explained = 1 - error / variance if variance > 0 else float("nan")
    return Measured(n, explained, float(active.sum()) / n, active / n, sums / active.clamp(min=1), most)


def max_cosines(a: Tensor, b: Tensor, *, signed: bool = True) -> Tensor:
    """The largest cosine (n,) of each row of a (n, C) with a row of b (m, C); of its size where not signed."""
    other = unit_rows(b.double())
    found: list[Tensor] = []
    for part in pieces(unit_rows(a.double()), 4096):
        cosines = part @ other.T
        found.append((cosines if signed else cosines.abs()).amax(1))
    return torch.cat(found)


def mean_max_cosine(a: Tensor, b: Tensor, *, signed: bool = True) -> float:
    """MMCS of a with b; NaN where one of them has no rows."""
    return float(max_cosines(a, b, signed=signed).mean()) if len(a) and len(b) else float("nan")


class Top(NamedTuple):
    """Tokens at which each latent is largest: values (F, m), descending, 0 where there are fewer, and rows (F, m)."""

    values: Tensor
    rows: Tensor


@torch.no_grad()
def top_tokens(dictionary: SparseDictionary, examples: Examples, m: int) -> Top:
    """The m tokens at which each latent is largest; of equal ones those that come first."""
    values = torch.zeros(dictionary.n_latents, m)
    rows = torch.zeros(dictionary.n_latents, m, dtype=torch.long)
    for start, x in chunks(examples):
        f = dictionary.latents(x).T
        numbers = torch.arange(start, start + len(x)).expand(len(f), -1)
        values, chosen = torch.cat([values, f], 1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, numbers], 1).gather(1, chosen)[:, :m]
        values = values[:, :m]
    return Top(values, rows)
