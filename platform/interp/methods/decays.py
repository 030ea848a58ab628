"""How fast each layer's recurrence forgets: its eigenvalues, and half-lives, survival and horizons in tokens.

A selective recurrence (Mamba, Mamba-2 and their relatives) multiplies a state coordinate by exp(Delta_t A) at token t,
with A < 0 learned and Delta_t chosen by the token. A modal filter (StripedHyena) multiplies it by lambda at every
token: that is A = log lambda, complex, with Delta = 1. So one form holds for all:

    S(t, k) = exp(-|Re A| * sum of the last k Deltas)          what is left after k tokens of what was written before
    half-life = ln 2 / (Delta |Re A|)    time constant = 1 / (Delta |Re A|)    horizon at theta = max k with S >= theta

Pure functions of tensors, in float64. U units with a Delta of their own (Mamba: channels; Mamba-2: heads), M
eigenvalues for each (Mamba: N; Mamba-2: 1, shared by all coordinates of the head's state).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.errors import UsageError

_ROUNDING = 1e-12  # a decay to exactly theta reaches theta, whatever the last bit of the logarithm says


def half_life(rate: Tensor, delta: Tensor | float = 1.0) -> Tensor:
    """ln 2 / (Delta |A|) in tokens; infinite where nothing decays. rate (U, M); delta: a number, or (U,)."""
    return math.log(2.0) * time_constant(rate, delta)


def time_constant(rate: Tensor, delta: Tensor | float = 1.0) -> Tensor:
    """1 / (Delta |A|) in tokens, after which 1/e is left; with Delta = 1 that of A alone. See `half_life`."""
    step = torch.as_tensor(delta, dtype=torch.float64)
    return 1.0 / (rate.double() * (step[:, None] if step.ndim else step))


def survival(rate: Tensor, delta: Tensor) -> Tensor:
    """S (k + 1, U, M) after 0, 1, ..., k tokens, the latest of which is the last row of delta (k, U).

    So S[j] is the share that the last j tokens leave of what the state held before them.
    """
    total = torch.cat([delta.new_zeros(1, delta.shape[1]), delta.flip(0).cumsum(0)]).double()
    return torch.exp(-total[..., None] * rate.double())


def horizon(rate: Tensor, delta: Tensor, theta: float) -> Tensor:
    """max k with S(t, k) >= theta, as (U, M) integers, at the last token of delta (T, U).

    At most T: the text has no more tokens to forget in, and a slower coordinate's horizon is at least that.
    Raises UsageError for a theta that is not strictly between 0 and 1.
    """
    if not 0.0 < theta < 1.0:
        raise UsageError(f"theta is the share that must be left, strictly between 0 and 1, not {theta}")
    total = delta.double().flip(0).cumsum(0).T.contiguous()  # (U, T), ascending
    bound = -math.log(theta) / rate.double() * (1.0 + _ROUNDING)
    return torch.searchsorted(total, bound.contiguous(), right=True)
