"""Forms of B and C that the backends of the selective scan do not know, brought to the one they do, B, C (B,T,N).

Groups: B (B,T,G,N), one for every E/G consecutive channels. The groups do not meet, so each is a scan of its channels.
Constant in time: B or C (E,N), one for every channel, as in a linear time-invariant system. What n states have in
common is then Delta alone, so each is a scan with one state: a constant B scales its input, a constant C its output.

Promises: the same for every backend, differentiable in all arguments, states and resets included; one pass over x per
group, and per state where B or C is constant, whose sum over states is taken outside of the scan. Not the fastest
conceivable; the plain form does not come here.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ....core.errors import UsageError
from ..arguments import expect_shape
from ..backend import Backend


def expect_forms(call: str, B: Tensor, C: Tensor, shape: tuple[int, int, int, int]) -> None:
    """UsageError unless B and C have one of their forms for `shape`, (batch, time, channels, states)."""
    batch, time, channels, size = shape
    if B.shape == C.shape == (batch, time, size):
        return
    groups = B.shape[2] if B.ndim == 4 else None
    if groups is not None and (groups < 1 or channels % groups):
        raise UsageError(f"{call}: x has {channels} channels, which do not divide into the {groups} groups of B")
    constant = ((channels, size), "(channels, states)")
    middle, words = ((), "") if groups is None else ((groups,), "groups, ")
    plain = ((batch, time, *middle, size), f"(batch, time, {words}states)")
    expect_shape(call, "B", B, *(constant if B.ndim == 2 else plain))
    if C.ndim == len(plain[0]) + 1:
        readouts = C.shape[2]
        if readouts < 1:
            raise UsageError(f"{call}: C has shape {tuple(C.shape)}, expected at least one read-out")
        plain = ((batch, time, readouts, *middle, size), f"(batch, time, read-outs, {words}states)")
    expect_shape(call, "C", C, *(constant if C.ndim == 2 else plain))


def readouts(B: Tensor, C: Tensor) -> int | None:
    """The number of read-outs that C has an axis for, if any."""
    return C.shape[2] if C.ndim == (5 if B.ndim == 4 else 4) else None


def any_form(run: Backend, B: Tensor, C: Tensor) -> Backend:
    """The backend `run` for arguments whose B and C have these forms."""
    if B.ndim == 4:
        return partial(_by_group, run)
    return partial(_by_state, run) if 2 in (B.ndim, C.ndim) else run


def _by_group(run: Backend, x, delta, A, B, C, D, initial_state, reset, positions) -> tuple[Tensor, Tensor | None]:
    groups = B.shape[2]
    width = x.shape[2] // groups
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    for g in range(groups):
        part = slice(g * width, (g + 1) * width)
        B_g, C_g = B[:, :, g].contiguous(), C[part] if C.ndim == 2 else C.select(-2, g).contiguous()
        y, read = any_form(run, B_g, C_g)(
            x[..., part].contiguous(), delta[..., part].contiguous(), A[part], B_g, C_g, None if D is None else D[part],
            None if initial_state is None else initial_state[:, part].contiguous(), reset, positions,
        )  # fmt: skip
        outputs.append(y)
        states.extend(() if read is None else (read,))
    return torch.cat(outputs, -1), torch.cat(states, 2) if states else None


def _by_state(run: Backend, x, delta, A, B, C, D, initial_state, reset, positions) -> tuple[Tensor, Tensor | None]:
    batch, time, _ = x.shape
    if not A.shape[1]:
        B, C = (each.sum(0).expand(batch, time, 0) if each.ndim == 2 else each for each in (B, C))
        return run(x, delta, A, B, C, D, initial_state, reset, positions)
    ones = x.new_ones(batch, time, 1)
    total: Tensor | None = None
    states: list[Tensor] = []
    for n in range(A.shape[1]):
        one = slice(n, n + 1)
        y, read = run(
            x * B[:, n] if B.ndim == 2 else x, delta, A[:, one].contiguous(),
            ones if B.ndim == 2 else B[..., one].contiguous(), ones if C.ndim == 2 else C[..., one].contiguous(), None,
            None if initial_state is None else initial_state[..., one].contiguous(), reset, positions,
        )  # fmt: skip
        y = y * C[:, n] if C.ndim == 2 else y
        total = y if total is None else total + y
        states.extend(() if read is None else (read,))
    assert total is not None
    if D is not None:
        skip = D * x
        total = total + skip if total.ndim == 3 else torch.cat((total[:, :, :1] + skip[:, :, None], total[:, :, 1:]), 2)
    return total, torch.cat(states, 3) if states else None
