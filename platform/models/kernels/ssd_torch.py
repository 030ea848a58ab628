"""The SSD of Mamba-2 in plain torch, on any device: matrix products inside chunks, a recurrence between them.

The chunk rule (Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, section 6), with a(i, j) = exp(A sum_{s=j+1..i} Delta_s):
  1. inside a chunk   y_i += sum_{j<=i} a(i, j) (C_i . B_j) Delta_j x_j
  2. what it writes   W    = sum_j a(last, j) Delta_j x_j (outer) B_j
  3. between chunks   S'   = a(last, -1) S + W
  4. reading it       y_i += a(i, -1) S C_i
Promises: every chunk size gives the same y and states up to rounding; y does not depend on which states are read out; the gradient with
respect to later inputs is exactly zero. The sums of Delta A are built up from zero for every pair (i, j), never as a difference of two
running sums and never as a quotient of exponentials, so that strong decay costs no precision and underflow gives 0, not 0/0.
A reset is a step with Delta A = -inf: every a(i, j) across it is exp(-inf) = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .registry import kernel


def segment_sums(steps: Tensor) -> Tensor:
    """(..., Q) -> (..., Q, Q): entry [j, i] is sum_{s=j+1..i} steps_s for i >= j and -inf before."""
    length = steps.shape[-1]
    ones = torch.ones(length, length, dtype=torch.bool, device=steps.device)
    # Row j starts adding at j + 1; zeros before it, so that -inf of an earlier reset never meets a finite number.
    terms = steps[..., None, :].masked_fill(ones.tril(), 0.0)
    return terms.cumsum(-1).masked_fill(ones.tril(-1), float("-inf"))


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


@kernel("ssd", "torch")
def ssd_torch(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    chunk: int,
    initial_state: Tensor | None,
    reset: Tensor | None,
    positions: tuple[int, ...],
) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the states (B, len(positions), H, P, N) after the steps in `positions`; arguments as in `ssd`."""
    batch, time, heads, width = x.shape
    groups, size = B.shape[2:]
    if time == 1:
        y, state = _step(x, delta, A, B, C, initial_state, reset)
        states = state[:, None] if positions else None
        return (y if D is None else y + D[:, None] * x), states
    chunk = min(chunk, time)
    count = -(-time // chunk)
    missing = count * chunk - time
    steps = delta * A
    if reset is not None:
        steps = steps.masked_fill(reset[..., None], float("-inf"))
    written = x * delta[..., None]
    if missing:
        # A padding step decays by exp(0) = 1 and writes 0: it leaves the state alone.
        steps, written = pad(steps, (0, 0, 0, missing)), pad(written, (0, 0, 0, 0, 0, missing))
        B, C = pad(B, (0, 0, 0, 0, 0, missing)), pad(C, (0, 0, 0, 0, 0, missing))

    # Axes from here on: b batch, k chunk, g group, r head of the group, i/j step of the chunk, p, n.
    steps = steps.view(batch, count, chunk, groups, -1).permute(0, 1, 3, 4, 2)  # b k g r i
    written = written.view(batch, count, chunk, groups, -1, width).permute(0, 1, 3, 4, 2, 5)  # b k g r j p
    B = B.view(batch, count, chunk, groups, size).transpose(2, 3)  # b k g j n
    C = C.view(batch, count, chunk, groups, size).transpose(2, 3)  # b k g i n
    decay = torch.exp(segment_sums(steps))  # b k g r j i
    from_start = torch.exp(steps.cumsum(-1))  # b k g r i: a(i, -1)

    weights = torch.matmul(B, C.transpose(-1, -2))[:, :, :, None] * decay
    y = torch.matmul(weights.transpose(-1, -2), written)
    chunk_writes = torch.matmul((written * decay[..., -1:]).transpose(-1, -2), B[:, :, :, None])  # b k g r p n
    entering = _carry(chunk_writes, from_start[..., -1], initial_state)
    read = torch.matmul(C[:, :, :, None], entering.transpose(-1, -2))
    read = read * from_start[..., None]
    if reset is not None:
        # Where a document started in this chunk the factor is 0, and 0 * inf would carry an old overflow over.
        read = read.masked_fill((from_start == 0)[..., None], 0.0)
    y = y + read
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, count * chunk, heads, width)[:, :time]
    if D is not None:
        y = y + D[:, None] * x
    if not positions:
        return y, None

    states = []
    for position in positions:
        k, i = divmod(position, chunk)
        here = torch.matmul((written[:, k] * decay[:, k, ..., i, None]).transpose(-1, -2), B[:, k, :, None])
        here = here + _decayed(entering[:, k], from_start[:, k, ..., i])
        states.append(here.reshape(batch, heads, width, size))
    return y, torch.stack(states, 1)


def _decayed(state: Tensor, factor: Tensor) -> Tensor:
    """state (..., P, N) times factor (...); a factor of 0 gives 0 even where the state has overflowed."""
    return (state * factor[..., None, None]).masked_fill((factor == 0)[..., None, None], 0.0)


def _carry(writes: Tensor, factors: Tensor, initial_state: Tensor | None) -> Tensor:
    """The state entering each chunk, (b,k,g,r,p,n), from what each chunk writes and its decay factor (b,k,g,r)."""
    state = torch.zeros_like(writes[:, 0]) if initial_state is None else initial_state.reshape(writes[:, 0].shape)
    entering = [state]
    for k in range(writes.shape[1] - 1):
        state = writes[:, k] + _decayed(state, factors[:, k])
        entering.append(state)
    return torch.stack(entering, 1)
