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

LEAK = 0.01
EPSILON = 1e-12  # inside the power of the penalty, whose slope at 0 is else infinite for p < 1


class Gate(NamedTuple):
    """The networks of C components with k hidden units: w_in, b_in, w_out (C, k), b_out (C,)."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor


def start_gate(scale: Tensor, hidden: int, generator: torch.Generator) -> Gate:
    """Networks of `hidden` units for components whose inner activations have the root mean square `scale` (C,).

    They begin near 0 up to h = scale / 2 and above 1 from h = scale on: a component begins as one that is important
    where its own direction is large. Importances that do not depend on the example could only take components away as
    a whole, which ends in few dense ones. And ones that rise with |h| ask for directions that are at right angles to
    most inputs: where inputs have more directions than dimensions, components of several of them are then the best.
    Which side that is does not matter: -U and -V are the same component.
    """
    shape = (len(scale), hidden)
    drawn = torch.rand(3, *shape, generator=generator, dtype=torch.float64).to(scale)
    near = scale.clamp_min(1e-6 * float(scale.max().clamp_min(1e-30)))
    w_in = (1.0 + 2.0 * drawn[0]) / near[:, None]
    w_out = (1.0 + 2.0 * drawn[1]) / hidden
    return Gate(w_in, 0.1 * (drawn[2] - 0.5) - 1.0, w_out, torch.zeros_like(scale))


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
