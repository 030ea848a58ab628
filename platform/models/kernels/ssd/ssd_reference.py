"""The SSD recurrence of Mamba-2, one token at a time: the oracle that the other backends are tested against.

S_t = exp(Delta_t A) S_{t-1} + Delta_t x_t (outer) B_t,  y_t = S_t C_t + D x_t  (Dao and Gu, "Transformers are SSMs",
arXiv 2405.21060, section 7). Promises: the recurrence as it is written, differentiable by ordinary autograd in any
floating dtype. It ignores the chunk size, and it is slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import example, kernel, normal, starts


class SsdCall(NamedTuple):
    """What every backend is given, in this order: the arguments of `ssd`, checked and in one dtype, and the sorted
    `positions` after which states are wanted."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    chunk: int
    initial_state: Tensor | None
    reset: Tensor | None
    positions: tuple[int, ...]


@kernel("ssd", "reference")
def ssd_reference(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the states (B, len(positions), H, P, N) after the steps in `positions`; arguments as in `ssd`."""
    x, delta, A, B, C, D, _, initial_state, reset, positions = SsdCall(*arguments)
    batch, time, heads, width = x.shape
    per_group = heads // B.shape[2]
    S = x.new_zeros(batch, heads, width, B.shape[3]) if initial_state is None else initial_state
    outputs: list[Tensor] = []
    kept: list[Tensor] = []
    for t in range(time):
        if reset is not None:
            # where, not a product: 0 * inf would carry the old document's overflow into the new one.
            S = torch.where(reset[:, t, None, None, None], torch.zeros_like(S), S)
        B_t = B[:, t].repeat_interleave(per_group, 1)
        C_t = C[:, t].repeat_interleave(per_group, 1)
        decay = torch.exp(delta[:, t] * A)[:, :, None, None]
        S = decay * S + (delta[:, t, :, None] * x[:, t])[..., None] * B_t[:, :, None, :]
        y = (S * C_t[:, :, None, :]).sum(-1)
        outputs.append(y if D is None else y + D[:, None] * x[:, t])
        if t in positions:
            kept.append(S)
    return torch.stack(outputs, 1), torch.stack(kept, 1) if kept else None


@example("ssd")
def ssd_example(generator: torch.Generator) -> tuple[Any, ...]:
    """Four heads of width 3 in two groups of five states, in chunks of 16."""
    shapes = {"x": (2, 70, 4, 3), "delta": (2, 70, 4), "A": (4,), "B": (2, 70, 2, 5), "C": (2, 70, 2, 5), "D": (4,)}
    drawn = {name: normal(generator, *shape) for name, shape in shapes.items()}
    drawn |= {"delta": drawn["delta"].exp() / 10, "A": -drawn["A"].exp()}
    return *drawn.values(), 16, normal(generator, 2, 4, 3, 5), starts(generator), (0, 33, 69)
