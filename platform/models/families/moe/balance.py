"""Losses that keep all experts in use, and the load they have.

The balance loss is that of the Switch Transformer (arXiv 2101.03961, eq. 4), the z-loss that of ST-MoE (arXiv
2202.08906, eq. 5). Both are means over real tokens of one forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expert_load(
    index: Tensor, n_experts: int, real: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The share (E,) of the real tokens' choices index (N, k) that each expert was given; sums to 1."""
    chosen = index if real is None else index[real]
    count = torch.bincount(chosen.flatten(), minlength=n_experts)
    return count.to(dtype) / count.sum()


def load_balance_loss(scores: Tensor, load: Tensor, real: Tensor | None = None) -> Tensor:
    """E * sum_i load_i P_i, P_i the mean softmax of the router's scores (N, E): 1 where both are even.

    The choice has no gradient; P has one, away from the experts with the most tokens. The softmax is taken whatever
    the router, because P must compare experts: a sigmoid's could fall for all of them together.
    """
    p = torch.softmax(scores if real is None else scores[real], -1)
    return len(load) * (load * p.mean(0)).sum()


def router_z_loss(scores: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean of (log sum_i exp(score_i))^2 over tokens: keeps the scores (N, E) small, where softmax is exact."""
    return torch.logsumexp(scores if real is None else scores[real], -1).square().mean()
