"""Expert capacity: which choices an expert serves in a forward pass in training (Fedus et al., arXiv 2101.03961)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def within_capacity(index: Tensor, n_experts: int, factor: float, real: Tensor | None = None) -> Tensor:
    """Which choices index (N, k) are served, (N, k) bool: the first `factor * n * k / n_experts` of every expert.

    n counts real tokens; the capacity is rounded down, but never below 1. Tokens are served in their order, all first
    choices before any second one. Padding is not served and takes no place.
    """
    n, k = index.shape
    count = n if real is None else int(real.sum())
    capacity = max(1, math.floor(factor * count * k / n_experts))
    wanted = index if real is None else torch.where(real[:, None], index, n_experts)
    queue = wanted.t().flatten()
    place = torch.nn.functional.one_hot(queue, n_experts + 1).cumsum(0).gather(1, queue[:, None])[:, 0]
    served = (place <= capacity) & (queue < n_experts)
    return served.view(k, n).t()
