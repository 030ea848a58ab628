"""The SSD of Mamba-2 in plain torch, on any device: matrix products inside chunks, a recurrence between them.

Promises: every chunk size gives the same y and states up to rounding; y does not depend on which states are read out;
the gradient with respect to later inputs is exactly zero; first derivatives only; one token, the decode step, costs a
few small operations and no chunk. The chunk rule and its backward are in `ssd_chunks`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import kernel
from .ssd_chunks import ChunkedSsd, ChunkLayout
from .ssd_reference import SsdCall


@kernel("ssd", "torch")
def ssd_torch(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the states (B, len(positions), H, P, N) after the steps in `positions`; arguments as in `ssd`."""
    x, delta, A, B, C, D, chunk, initial_state, reset, positions = SsdCall(*arguments)
    batch, time, _, width = x.shape
    groups, size = B.shape[2:]
    if time == 1:
        y, state = _step(x, delta, A, B, C, initial_state, reset)
        states = state[:, None] if positions else None
        return (y if D is None else y + D[:, None] * x), states
    start = initial_state
    if start is not None:
        start = start.reshape(batch, groups, -1, width, size).permute(0, 1, 4, 2, 3).reshape(batch, groups, size, -1)
    y, entering = ChunkedSsd.apply(x, delta, A, B, C, D, start, reset, chunk)
    if not positions:
        return y, None
    at = ChunkLayout.of(x, groups, chunk)
    wanted: dict[int, list[int]] = {}
    for position in positions:
        wanted.setdefault(position // at.chunk, []).append(position % at.chunk)
    states = [states_inside(k, steps, at, x, delta, A, B, entering[:, k], reset) for k, steps in wanted.items()]
    return y, torch.cat(states, 1)


def _step(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token: y (B,1,H,P) without the D term, and the state (B,H,P,N)."""
    batch, _, heads, width = x.shape
    groups, size = B.shape[2:]
    grouped = (batch, groups, heads // groups)
    written = (delta[:, 0, :, None] * x[:, 0]).view(*grouped, width, 1) * B[:, 0, :, None, None, :]
    state = written.view(batch, heads, width, size)
    if start is not None:
        if reset is not None:
            start = start.masked_fill(reset[:, 0, None, None, None], 0.0)
        state = state + torch.exp(delta[:, 0] * A)[:, :, None, None] * start
    y = torch.matmul(state.view(*grouped, width, size), C[:, 0, :, None, :, None])
    return y.view(batch, 1, heads, width), state


def states_inside(
    k: int,
    steps: list[int],
    at: ChunkLayout,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    entering: Tensor,
    reset: Tensor | None,
) -> Tensor:
    """The states (B, len(steps), H, P, N) after some steps of chunk `k`; `entering` (B,G,N,r P) is what enters it."""
    batch, _, heads, width = x.shape
    groups, size = B.shape[2:]
    # Letters: b sequence, g group, r head of the group, j step, i step asked for, p, n.
    part = slice(k * at.chunk, k * at.chunk + max(steps) + 1)
    terms = delta[:, part] * A
    if reset is not None:
        terms = terms.masked_fill(reset[:, part, None], float("-inf"))
    terms = terms.transpose(1, 2)  # b h j
    length = terms.shape[-1]
    # Row j starts adding at j + 1; zeros before it, so that -inf of an earlier reset never meets a finite number.
    before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    sums = terms[..., None, :].masked_fill(before, 0.0).cumsum(-1)[..., steps]
    earlier = torch.arange(length, device=x.device)[:, None] > torch.tensor(steps, device=x.device)
    decay = torch.exp(sums.masked_fill(earlier, float("-inf")))  # b h j i
    written = (x[:, part] * delta[:, part, :, None]).transpose(1, 2)  # b h j p
    weighted = (written[..., None, :] * decay[..., None]).view(batch, groups, -1, length, len(steps), width)
    added = torch.einsum("bgrjip,bjgn->bigrpn", weighted, B[:, part])
    factor = torch.exp(terms.cumsum(-1))[..., steps].transpose(1, 2)[..., None, None]  # b i h 1 1
    carried = entering.view(batch, groups, size, -1, width).permute(0, 1, 3, 4, 2).reshape(batch, 1, heads, width, size)
    carried = carried * factor
    if reset is not None:
        carried = carried.masked_fill(factor == 0, 0.0)
    return added.reshape(batch, len(steps), heads, width, size) + carried
