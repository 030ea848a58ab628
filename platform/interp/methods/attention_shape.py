"""What a matrix of signed weights of earlier tokens is like as attention: for each token how much it reads, from how
many tokens, how far back, and how that changes.

With the shares s[i, j] = |w[i, j]| / sum_j |w[i, j]| of token i over j <= i:

    strength   sum_j |w[i, j]|
    entropy    - sum_j s[i, j] ln s[i, j] / ln(i + 1)          0: one token, 1: all alike; none at the first token
    reach      sum_j s[i, j] (i - j)                           in tokens
    change     sum_j |s[i, j] - s[i - 1, j]| / 2               total variation from the token before; none at the first
    received   mean over i >= j of s[i, j]                     what later tokens read of token j, itself included

For weights w[i, j] = q^(i-j), as a fixed decay q with nothing else gives, strength is (1 - q^(i+1)) / (1 - q) and the
entropy (without its denominator) -> -ln(1 - q) - q ln(q) / (1 - q) far from the start.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
MEASURES = {
    "strength": "sum of the sizes of a token's weights",
    "entropy": "of a token's shares, over that of equal ones: 0 one token, 1 all alike",
    "reach": "mean distance of what a token reads, in tokens",
    "change": "total variation between a token's shares and those of the token before, 0 to 1",
    "received": "mean share that a token has in what it and later ones read",
}


def shares(weights: Tensor) -> Tensor:
    """s (K, T, T) of weights (K, T, T), lower triangular, float64; NaN in a row that is zero."""
    size = weights.abs().double()
    return size / size.sum(-1, keepdim=True)


def attention_shape(weights: Tensor) -> dict[str, Floats]:
    """`MEASURES` (T, K) of weights (K, T, T); NaN where a measure has no value."""
    share, length = shares(weights), weights.shape[-1]
    strength = weights.abs().double().sum(-1)
    i = torch.arange(length, dtype=torch.float64, device=weights.device)
    entropy = -(share * share.clamp(min=1e-300).log()).sum(-1) / torch.log(i + 1)  # 0 / 0 at the first token
    reach = (share * (i[:, None] - i).clamp(min=0)).sum(-1)
    change = torch.full_like(strength, torch.nan)
    change[:, 1:] = (share[:, 1:] - share[:, :-1]).abs().sum(-1) / 2
    received = share.sum(1) / (length - i)
    found = {"strength": strength, "entropy": entropy, "reach": reach, "change": change, "received": received}
    return {name: value.T.cpu().numpy() for name, value in found.items()}


def by_distance(share: Tensor, bins: tuple[tuple[int, int], ...]) -> list[float]:
    """Mean over units and tokens of the share at distances first..last of each bin; of all of them it adds up to 1
    where the bins cover the text. share (K, T, T)."""
    length = share.shape[-1]
    i = torch.arange(length, device=share.device)
    lag = i[:, None] - i
    mean = share.mean(0)
    return [float(mean[(lag >= first) & (lag <= last)].sum()) / length for first, last in bins]
