"""The balanced assignment that BlackMamba was trained with (arXiv 2402.01771, section 3; after S-BASE, 2202.01169).

Among all ways to spread N tokens over E experts in which every token has the mass 1/N and every expert 1/E, the plan
exp(2 scores) with rows and columns scaled is the one nearest to exp(2 scores). Every token then goes to the expert that
has most of its mass, which leaves experts nearly, not exactly, equally loaded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHARPNESS = 2.0
TOLERANCE = 1e-4
# Scores far apart converge slowly, and what is left of the imbalance after this many rounds is no reason to wait.
MOST_ROUNDS = 200


@torch.no_grad()
def sinkhorn(scores: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The plan (N, E) for scores (N, E): rows of mass 1/N, and columns within `tolerance` of 1/E, relative to it.

    Rows and columns are scaled in turn until that holds, at most MOST_ROUNDS times. Logarithms are kept, so that no
    score is too large; the arithmetic is that of the scores' dtype.
    """
    n, experts = scores.shape
    cost = SHARPNESS * scores
    columns = scores.new_zeros(experts)
    rows = -math.log(n) - torch.logsumexp(cost, 1)
    for _ in range(MOST_ROUNDS):
        mass = torch.logsumexp(cost + rows[:, None], 0)  # of each expert before its factor
        if float(((mass + columns).exp() * experts - 1).abs().max()) <= tolerance:
            break
        columns = -math.log(experts) - mass
        rows = -math.log(n) - torch.logsumexp(cost + columns, 1)
    return (cost + rows[:, None] + columns).exp()
