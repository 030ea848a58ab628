"""Geometry of superposition: how many directions share how many dimensions, and how evenly.

Of vectors W_i, the rows of W (n, C); hat: of unit length; sigma: singular values of W.

    feature dimensionality   D_i = |W_i|^2 / sum_j (hat W_i . W_j)^2           (Elhage et al. 2022, arXiv 2209.10652)
    dimensions per feature   C / |W|_F^2
    coherence                max over i != j of |hat W_i . hat W_j|, at least the Welch bound
    Welch bound              sqrt((n - C) / (C (n - 1))) for n > C, else 0      (Welch 1974)
    participation ratio      (sum lambda)^2 / sum lambda^2, lambda = sigma^2
    effective rank           exp(H(sigma / sum sigma))                         (Roy and Vetterli 2007)
    stable rank              sum sigma^2 / max sigma^2

D_i is 1 for a vector orthogonal to all others, 1/2 in an antipodal pair, 2/5 in a regular pentagon. A zero vector has
no direction: it is left out of coherence and has no D_i. float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .typed_tensors import eigen, lengths, pieces, singular_values, unit_rows

_ROWS = 2048  # of a Gram matrix at once


class Spectrum(NamedTuple):
    """Of singular values. None of all where they are all zero."""

    participation_ratio: float
    effective_rank: float
    stable_rank: float


class Geometry(NamedTuple):
    """n vectors that are not zero in C dimensions. coherence: None for fewer than two vectors, and
    where it was not asked for; spectrum: of W."""

    n: int
    dimensions: int
    frobenius_squared: float
    coherence: float | None
    welch_bound: float
    spectrum: Spectrum | None

    @property
    def dimensions_per_feature(self) -> float | None:
        """C / |W|_F^2; None of zero vectors."""
        return self.dimensions / self.frobenius_squared if self.frobenius_squared > 0 else None


def dimensionality(w: Tensor) -> Tensor:
    """D (n,) of the rows of w (n, C), float64; NaN for a zero row."""
    w = w.double()
    unit = unit_rows(w)
    shared = torch.cat([((part @ w.T) ** 2).sum(1) for part in pieces(unit, _ROWS)])
    return torch.where(shared > 0, (w**2).sum(1) / shared, torch.nan)


def coherence(w: Tensor) -> float | None:
    """The largest |cosine| between two rows of w (n, C) that are not zero; None for fewer than two."""
    w = w.double()
    unit = unit_rows(w[lengths(w) > 0])
    if len(unit) < 2:
        return None
    most = 0.0
    for start in range(0, len(unit), _ROWS):
        cosines = (unit[start : start + _ROWS] @ unit.T).abs()
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = 0.0
        most = max(most, float(cosines.max()))
    return min(most, 1.0)


def welch_bound(n: int, dimensions: int) -> float:
    """The least coherence that n unit vectors in so many dimensions can have."""
    return ((n - dimensions) / (dimensions * (n - 1))) ** 0.5 if n > dimensions else 0.0


def spectrum(singular: Tensor) -> Spectrum | None:
    """Of singular values (r,) >= 0."""
    singular = singular.double()
    squares = singular**2
    if not bool((squares > 0).any()):
        return None
    share = singular / singular.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    total = squares.sum()
    ratio = total**2 / (squares**2).sum()
    return Spectrum(float(ratio), float(entropy.exp()), float(total / squares.max()))


def geometry(w: Tensor, *, angles: bool = True) -> Geometry:
    """Of the rows of w (n, C); without angles there is no coherence, which takes every pair of rows."""
    w = w.double()
    n = int((lengths(w) > 0).sum())
    found = spectrum(singular_values(w))
    return Geometry(
        n, w.shape[1], float((w**2).sum()), coherence(w) if angles else None, welch_bound(n, w.shape[1]), found
    )


def spectrum_of_covariance(covariance: Tensor) -> Spectrum | None:
    """Of centred activations, by their covariance (C, C): its eigenvalues are squares of singular values, over n."""
    return spectrum(eigen(covariance.double())[0].clamp(min=0).sqrt())


def random_directions(n: int, width: int, seed: int) -> Tensor:
    """Unit vectors (n, width), evenly distributed; float64."""
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(n, width, generator=generator, dtype=torch.float64))


def gaussian_like(w: Tensor, seed: int) -> Tensor:
    """A matrix (n, C) of independent Gaussians whose rows have the lengths of w's: directions at random."""
    return random_directions(w.shape[0], w.shape[1], seed) * lengths(w.double())[:, None]
