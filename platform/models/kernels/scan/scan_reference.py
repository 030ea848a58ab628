"""The selective scan, one token at a time: the oracle that the other backends are tested against.

h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t,  y_t = C_t . h_t + D x_t  (Gu and Dao, "Mamba", arXiv 2312.00752,
equations 2a, 2b with the Euler write of the reference implementation). Promises: the recurrence as it is written,
differentiable by ordinary autograd, twice if need be, in any floating dtype. It is slow and keeps every state in memory
when gradients are on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import example, kernel, normal, starts


class ScanCall(NamedTuple):
    """What every backend is given, in this order: the arguments of `selective_scan`, checked and in one dtype, B and C
    (B,T,N) or C (B,T,R,N), and the sorted `positions` after which states are wanted."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    initial_state: Tensor | None
    reset: Tensor | None
    positions: tuple[int, ...]


@kernel("scan", "reference")
def scan_reference(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,E) or (B,T,R,E) and the states (B, len(positions), E, N) after the steps in `positions`; arguments as in
    `selective_scan`."""
    x, delta, A, B, C, D, initial_state, reset, positions = ScanCall(*arguments)
    batch, time, channels = x.shape
    h = x.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    outputs: list[Tensor] = []
    kept: list[Tensor] = []
    for t in range(time):
        if reset is not None:
            # where, not a product: 0 * inf would carry the old document's overflow into the new one.
            h = torch.where(reset[:, t, None, None], torch.zeros_like(h), h)
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
        if C.ndim == 3:
            y = (h * C[:, t, None, :]).sum(-1)
            outputs.append(y if D is None else y + D * x[:, t])
        else:
            y = (h[:, None] * C[:, t, :, None, :]).sum(-1)
            outputs.append(y if D is None else torch.cat((y[:, :1] + (D * x[:, t])[:, None], y[:, 1:]), 1))
        if t in positions:
            kept.append(h)
    return torch.stack(outputs, 1), torch.stack(kept, 1) if kept else None


@example("scan")
def scan_example(generator: torch.Generator) -> tuple[Any, ...]:
    """Five channels with three states each; steps from almost nothing to much."""
    shapes = {"x": (2, 70, 5), "delta": (2, 70, 5), "A": (5, 3), "B": (2, 70, 3), "C": (2, 70, 3), "D": (5,)}
    drawn = {name: normal(generator, *shape) for name, shape in shapes.items()}
    drawn |= {"delta": drawn["delta"].exp() / 10, "A": -drawn["A"].exp()}
    return *drawn.values(), normal(generator, 2, 5, 3), starts(generator), (0, 33, 69)
