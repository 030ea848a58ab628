"""Causal importances: how far a component can be taken away at an example, predicted by a small network of its own.

    h_c = V_c . a;   raw_c = w_out . GELU(w_in h_c + b_in) + b_out;   g_c = sigma(raw_c)        (SPD, appendix A)

sigma is a hard sigmoid that leaks with slope 0.01, below 0 in the masks (a component that does nothing may as well be
turned round), above 1 in the penalty (which must not reward what is negative).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UsageError

LEAK = 0.01
EPSILON = 1e-12  # inside the power of the penalty, whose slope at 0 is else infinite for p < 1


class Gate(NamedTuple):
    """The networks of C components with k hidden units: w_in, b_in, w_out (C, k), b_out (C,)."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor


def start_gate(scale: Tensor, hidden: int, generator: torch.Generator) -> Gate:
    """Networks for components whose inner activations have the root mean square `scale` (C,); hidden is at least 2.

    They begin near raw = |h| / scale, by pairs of units that see h and -h: where a component does nothing it is not
    important, and the penalty begins as one on |h|, which makes inner activations sparse. From importances that do not
    depend on the example it can take components away only as a whole, which ends in few dense ones.

    Raises UsageError for fewer than 2 hidden units.
    """
    if hidden < 2:
        raise UsageError(f"a network that predicts importance has at least 2 hidden units, not {hidden}")
    shape = (len(scale), hidden)
    drawn = torch.rand(3, *shape, generator=generator, dtype=torch.float64).to(scale)
    sign = 1.0 - 2.0 * (torch.arange(hidden, device=scale.device) % 2)
    near = scale.clamp_min(1e-6 * float(scale.max().clamp_min(1e-30)))
    w_in = sign * (0.5 + drawn[0]) / near[:, None]
    w_out = (0.5 + drawn[1]) * 2 / hidden
    return Gate(w_in, 0.1 * (drawn[2] - 0.5), w_out, torch.zeros_like(scale))


def raw_importance(gate: Gate, inner: Tensor) -> Tensor:
    """raw (..., C) of inner activations h (..., C)."""
    hidden = F.gelu(inner[..., None] * gate.w_in + gate.b_in)
    return (hidden * gate.w_out).sum(-1) + gate.b_out


def lower_leaky(raw: Tensor) -> Tensor:
    """0.01 raw below 0, raw between, 1 above 1."""
    return torch.where(raw < 0, LEAK * raw, raw.clamp(0.0, 1.0))


def upper_leaky(raw: Tensor) -> Tensor:
    """0 below 0, raw between, 1 + 0.01 (raw - 1) above 1."""
    return torch.where(raw > 1, 1 + LEAK * (raw - 1), raw.clamp(0.0, 1.0))


def minimality(raw: Tensor, power: float, counted: Tensor | None = None) -> Tensor:
    """Mean over examples of the sum over components of (upper_leaky(raw) + EPSILON)^power; raw (..., C).

    counted (...): True where an entry is an example; None: all are.
    """
    each = ((upper_leaky(raw) + EPSILON) ** power).sum(-1)
    return each.mean() if counted is None else each[counted].mean()
