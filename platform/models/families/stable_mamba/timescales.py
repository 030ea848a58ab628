"""The decays of Stable-Mamba's three timescales, and their recurrence in the form the SSD kernel computes.

    h_t = a_t h_{t-1} + (1 - a_t) x_t (outer) B_t,      a_t = sigmoid(logit(tau) + offset_t)

With Delta_t = -log a_t and A = -1 the decay exp(Delta_t A) is a_t, and the kernel's write Delta_t x'_t is
(1 - a_t) x_t for x'_t = x_t (1 - a_t) / Delta_t (`linear_recurrence.write_share`).
Delta_t = softplus(-(logit(tau) + offset_t)) has no cancellation however near a_t comes to 1, where a_t itself has lost
its digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def logits_of(tau: Sequence[float], heads: int, like: Tensor) -> Tensor:
    """logit(tau_j), each repeated for its `heads` heads (J * heads), in the dtype and on the device of `like`.

    Taken in double precision from the numbers themselves: a parameter that held them would round them to float32, and
    a float64 model would start at 0.7 only to eight digits.
    """
    values = [math.log(t) - math.log1p(-t) for t in tau]
    return torch.tensor(values, dtype=like.dtype, device=like.device).repeat_interleave(heads)


def steps(logits: Tensor, offset: Tensor) -> Tensor:
    """Delta_t = -log sigmoid(logits + offset), the negative logarithm of the decay."""
    return F.softplus(-(logits + offset))
