"""How unequally the magnitudes of a vector are distributed over its channels: 0 for equal ones, 1 for a single one.

Of n magnitudes x, in ascending order x_1 <= .. <= x_n:

- Gini: (2 sum k x_k - (n + 1) sum x) / (n sum x); 1 - 1/n for a single one;
- Hoyer (2004): (sqrt n - l1 / l2) / (sqrt n - 1);
- entropy: 1 - H(x / sum x) / ln n;
- Treves-Rolls (1991): mean(x)^2 / mean(x^2), which goes the other way: 1 for equal ones, 1/n for a single one.

A vector of zeros has none of them (NaN), and one of a single channel has neither Hoyer's nor the entropy's. What
zeroing everything up to a threshold takes away is a share of the sum (a point of Lorenz's curve) and of the squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: name -> what it means, in the order of the columns of `measures`
MEASURES = {
    "gini": "Gini coefficient: 0 for equal magnitudes, 1 - 1/n for a single one",
    "hoyer": "Hoyer sparsity: 0 for equal magnitudes, 1 for a single one",
    "entropy": "entropy sparsity: 0 for equal magnitudes, 1 for a single one",
    "treves_rolls": "Treves-Rolls: 1 for equal magnitudes, 1/n for a single one",
}


def gini(x: Tensor) -> Tensor:
    """Gini coefficient (...) of the magnitudes of x (..., n), float64."""
    ordered = x.detach().double().abs().sort(-1).values
    n, total = x.shape[-1], ordered.sum(-1)
    weights = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=x.device) - n - 1
    return (ordered * weights).sum(-1) / (n * total)


def measures(x: Tensor) -> Tensor:
    """The four of `MEASURES` (..., 4) of the magnitudes of x (..., n), float64; NaN where there is none."""
    size = x.detach().double().abs()
    size = size / size.amax(-1, keepdim=True)  # neither squares nor sums overflow or vanish; zeros become NaN
    n = size.shape[-1]
    share = size / size.sum(-1, keepdim=True)
    squares = share.square().sum(-1)
    hoyer = entropy = torch.full_like(squares, torch.nan)
    if n > 1:
        hoyer = (n**0.5 - squares.rsqrt()) / (n**0.5 - 1)
        entropy = 1 + torch.xlogy(share, share).sum(-1) / math.log(n)
    return torch.stack([gini(size), hoyer, entropy, 1 / (n * squares)], -1)


class Magnitudes:
    """The magnitudes of all entries of x, one order for every question about them."""

    def __init__(self, x: Tensor) -> None:
        self._ordered = x.detach().double().abs().flatten().sort().values
        scaled = self._ordered / self._ordered[-1]  # no square overflows; zeros become NaN
        self._sums, self._squares = (torch.cat([v.new_zeros(1), v.cumsum(0)]) for v in (scaled, scaled.square()))

    def thresholds(self, shares: Sequence[float]) -> Tensor:
        """The least magnitudes (K,) up to which at least each of `shares` of all entries lies."""
        n = len(self._ordered)
        return self._ordered[[min(n, max(1, math.ceil(share * n))) - 1 for share in shares]]

    def up_to(self, limits: Tensor) -> Tensor:
        """What entries of magnitude at most each of `limits` (K,) are of all entries, (K, 3): of their number, of the
        sum of magnitudes and of that of squares. The last two are NaN for zeros."""
        found = torch.searchsorted(self._ordered, limits.to(self._ordered), right=True)
        parts = (self._sums[found] / self._sums[-1], self._squares[found] / self._squares[-1])
        return torch.stack([found.double() / len(self._ordered), *parts], -1)
