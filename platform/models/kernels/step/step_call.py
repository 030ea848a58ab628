"""One token of a recurrence, for decoding: the state goes in, the output and the next state come out.

Decoding a small model spends its time in Python and in the launch of operations, not in arithmetic. So there is no
backend here and nothing is checked: as few torch operations as there can be, on any device, differentiable by ordinary
autograd, wrong shapes left to torch (but the rows of a pool of states are looked at, see `state_pool`). The sequence
kernels with one token give the same up to rounding.

A state wider than the other arguments (a bfloat16 model keeps it in float32) sets the type of the computation, and y is
returned in the type of x or u, autocast or not. `inplace=True` writes the next state into the memory of the given one
(contiguous for `ssd_step` and for groups) and returns that tensor; for calls without gradients, where nobody else holds
it. With `state_rows` (B) the state or window is a pool, of which each sequence takes one row and leaves its next state
in it, -1 none; the second result is then the pool.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from ....core.errors import UsageError
from ..arguments import full_precision
from ..backend import resolve
from ..state_pool import put, starting_state


def compiled_steps(x: Tensor, states: int) -> ModuleType | None:
    """The compiled one-token loops (module `step_numba`), where the default backend has them for x (B,1,E) with
    `states` states per channel and no gradient is asked for; else None."""
    if x.shape[1] != 1 or torch.is_grad_enabled() or resolve("scan", x) != "numba":
        return None
    from . import step_numba

    return step_numba if step_numba.fits(x, states) else None


def scan_step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    state_rows: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`: h = exp(delta A) h + delta B x, y = C . h + D x.

    state (B,E,N); x, delta (B,E), delta after the softplus; A (E,N); B (B,N); C (B,N), or (B,R,N) for several
    read-outs, the first of which gets D x; D (E) or None. With groups, B (B,G,N) and C (B,G,N) or (B,R,G,N); what is
    constant in time, (E,N), has as many groups as channels. Returns y (B,E) or (B,R,E), and the next state (B,E,N).
    """
    if state_rows is not None:
        step = partial(scan_step, x=x, delta=delta, A=A, B=B, C=C, D=D)
        return _in_pool(step, "state", "channels, states", state, state_rows, len(x), inplace)
    kind = x.dtype
    if kind != state.dtype:
        x, delta, B, C = x.to(state.dtype), delta.to(state.dtype), B.to(state.dtype), C.to(state.dtype)
    # exp_ also where gradients are on: the derivative of exp needs its result alone.
    decay = (delta.unsqueeze(2) * A).exp_()
    state = state.mul_(decay) if inplace else decay * state
    if B.ndim == 3:
        state, y = _write_and_read_groups(state, delta * x, B, C)
    else:
        state.addcmul_((delta * x).unsqueeze(2), B.unsqueeze(1))
        with full_precision(state):
            y = torch.bmm(state, C.unsqueeze(2)).squeeze(2) if C.ndim == 2 else torch.bmm(C, state.transpose(1, 2))
    if D is not None:
        (y if y.ndim == 2 else y[:, 0]).addcmul_(x, D)
    return (y if kind == y.dtype else y.to(kind)), state


def _write_and_read_groups(state: Tensor, written: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """state (B,E,N), overwritten, with `written` (B,E) times B (B,G,N) added, and what C (B,G,N) or (B,R,G,N) reads."""
    batch, channels, size = state.shape
    groups = B.shape[1]
    if groups < 1 or channels % groups:
        raise UsageError(f"scan_step: x has {channels} channels, which do not divide into the {groups} groups of B")
    pairs, width = batch * groups, channels // groups
    state = state.contiguous()
    rows = state.view(pairs, width, size)
    rows.addcmul_(written.reshape(pairs, width, 1), B.reshape(pairs, 1, size))
    reads = C.shape[1] if C.ndim == 4 else 1
    keys = (C.transpose(1, 2) if C.ndim == 4 else C).reshape(pairs, reads, size)
    with full_precision(state):
        y = torch.bmm(keys, rows.transpose(1, 2))
    y = y.view(batch, groups, reads, width).transpose(1, 2).reshape(batch, reads, channels)
    return state, y if C.ndim == 4 else y[:, 0]


def ssd_step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    state_rows: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `ssd`: S = exp(delta A) S + delta x (outer) B, y = S C + D x.

    state (B,H,P,N); x (B,H,P); delta (B,H), after the softplus; A (H); B, C (B,G,N), G dividing H; D (H) or None.
    Each channel may have its own: delta (B,H,P), A (H,P) or (H,P,N), D (H,P). Returns y (B,H,P) and the next state
    (B,H,P,N).
    """
    if state_rows is not None:
        step = partial(ssd_step, x=x, delta=delta, A=A, B=B, C=C, D=D)
        return _in_pool(step, "state", "heads, head width, states", state, state_rows, len(x), inplace)
    kind = x.dtype
    if kind != state.dtype:
        x, delta, B, C = x.to(state.dtype), delta.to(state.dtype), B.to(state.dtype), C.to(state.dtype)
    batch, heads, width, size = state.shape
    groups = B.shape[1]
    if groups < 1 or heads % groups:
        raise UsageError(f"ssd_step: x has {heads} heads, which do not divide into the {groups} groups of B")
    pairs, rows_each = batch * groups, heads // groups * width
    by_channel = delta.ndim == 3
    if by_channel or A.ndim > 1:
        step = delta if by_channel else delta.unsqueeze(2)
        decay = torch.exp(step.unsqueeze(3) * A.view(*A.shape, *(1,) * (3 - A.ndim)))
    else:
        decay = (delta * A).exp_().view(batch, heads, 1, 1)
    state = state.mul_(decay) if inplace else (state * decay).contiguous()
    written = (delta if by_channel else delta.unsqueeze(2)) * x
    # The heads of a group lie side by side: one matrix of rows (head, p) per sequence and group.
    rows = state.view(pairs, rows_each, size)
    rows.addcmul_(written.view(pairs, rows_each, 1), B.reshape(pairs, 1, size))
    with full_precision(state):
        y = torch.bmm(rows, C.reshape(pairs, size, 1)).view(batch, heads, width)
    if D is not None:
        y.addcmul_(x, D if D.ndim == 2 else D.unsqueeze(1))
    return (y if kind == y.dtype else y.to(kind)), state


def conv_step(
    window: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    state_rows: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `causal_conv`: y = bias + sum_{i<K} weight[:, i] (window, u)_i.

    window (B,E,K-1): the inputs before, oldest first; u (B,E); weight (E,K); bias (E) or None. Returns y (B,E) and the
    next window (B,E,K-1).
    """
    if state_rows is not None:
        step = partial(conv_step, u=u, weight=weight, bias=bias)
        return _in_pool(step, "window", "channels, taps - 1", window, state_rows, len(u), inplace)
    seen = torch.cat((window, u.unsqueeze(2)), 2)
    # A product and a sum; one bmm or einsum is slower (measured).
    if u.dtype.itemsize < 4:
        y = (seen.float() * weight.float()).sum(2)
    else:
        y = (seen * weight).sum(2)
    if bias is not None:
        y += bias
    if y.dtype != u.dtype:
        y = y.to(u.dtype)
    return y, window.copy_(seen[..., 1:]) if inplace else seen[..., 1:]


def _in_pool(
    step: partial[tuple[Tensor, Tensor]],
    name: str,
    axes: str,
    pool: Tensor,
    state_rows: Tensor,
    batch: int,
    inplace: bool,
) -> tuple[Tensor, Tensor]:
    """y and the pool after `step` of the states in it that `state_rows` names. name, axes: of a state, for messages."""
    shape = (batch, *pool.shape[1:])
    mine = starting_state(step.func.__name__, pool, state_rows, shape, axes, name=name, written=True, inplace=inplace)
    y, after = step(mine)
    return y, put(pool, state_rows, after, inplace)
