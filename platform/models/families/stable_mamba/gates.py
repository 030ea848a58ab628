"""The gate ensemble of Stable-Mamba: several sigmoid gates on one input, mixed by weights that add up to one.

    g_k = sigmoid(W_k u + b_k) * u          u~ = sum_k w_k g_k,  w = softmax(v)

Every g_k shrinks u towards zero, coordinate by coordinate, and so does a convex mixture of them: |u~| <= |u|.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gate_output(scores: Tensor, u: Tensor) -> Tensor:
    """g_k (B, T, d) of the gate's scores W_k u + b_k (B, T, d) and its input u (B, T, d)."""
    return torch.sigmoid(scores) * u


def ensemble(outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_k weights[k] * outputs[k], added in the order of the gates. weights (K)."""
    mixed = outputs[0] * weights[0]
    for k in range(1, len(outputs)):
        mixed = mixed + outputs[k] * weights[k]
    return mixed
