"""One token of a recurrence, for decoding: the state goes in, the output and the next state come out.

Decoding a small model spends its time in Python and in the launch of operations, not in arithmetic. So there is no
backend here and nothing is checked: as few torch operations as there can be, on any device, differentiable by ordinary
autograd, wrong shapes left to torch. The sequence kernels with one token give the same up to rounding.

A state wider than the other arguments (a bfloat16 model keeps it in float32) sets the type of the computation, and y is
returned in the type of x or u, autocast or not. `inplace=True` writes the next state into the memory of the
given one (contiguous for `ssd_step`) and returns that tensor; for calls without gradients, where nobody else holds it.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...errors import UsageError
from .arguments import full_precision
from .registry import resolve


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
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`: h = exp(delta A) h + delta B x, y = C . h + D x.

    state (B,E,N); x, delta (B,E), delta after the softplus; A (E,N); B (B,N); C (B,N), or (B,R,N) for several
    read-outs, the first of which gets D x; D (E) or None. Returns y (B,E) or (B,R,E), and the next state (B,E,N).
    """
    kind = x.dtype
    if kind != state.dtype:
        x, delta, B, C = x.to(state.dtype), delta.to(state.dtype), B.to(state.dtype), C.to(state.dtype)
    # exp_ also where gradients are on: the derivative of exp needs its result alone.
    decay = (delta.unsqueeze(2) * A).exp_()
    state = state.mul_(decay) if inplace else decay * state
    state.addcmul_((delta * x).unsqueeze(2), B.unsqueeze(1))
    with full_precision(state):
        y = torch.bmm(state, C.unsqueeze(2)).squeeze(2) if C.ndim == 2 else torch.bmm(C, state.transpose(1, 2))
    if D is not None:
        (y if C.ndim == 2 else y[:, 0]).addcmul_(x, D)
    return (y if kind == y.dtype else y.to(kind)), state


def ssd_step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `ssd`: S = exp(delta A) S + delta x (outer) B, y = S C + D x.

    state (B,H,P,N); x (B,H,P); delta (B,H), after the softplus; A (H); B, C (B,G,N), G dividing H; D (H) or None.
    Returns y (B,H,P) and the next state (B,H,P,N).
    """
    kind = x.dtype
    if kind != state.dtype:
        x, delta, B, C = x.to(state.dtype), delta.to(state.dtype), B.to(state.dtype), C.to(state.dtype)
    batch, heads, width, size = state.shape
    groups = B.shape[1]
    if groups < 1 or heads % groups:
        raise UsageError(f"ssd_step: x has {heads} heads, which do not divide into the {groups} groups of B")
    pairs, rows_each = batch * groups, heads // groups * width
    decay = (delta * A).exp_().view(batch, heads, 1, 1)
    state = state.mul_(decay) if inplace else (state * decay).contiguous()
    # The heads of a group lie side by side: one matrix of rows (head, p) per sequence and group.
    rows = state.view(pairs, rows_each, size)
    rows.addcmul_((delta.unsqueeze(2) * x).view(pairs, rows_each, 1), B.reshape(pairs, 1, size))
    with full_precision(state):
        y = torch.bmm(rows, C.reshape(pairs, size, 1)).view(batch, heads, width)
    if D is not None:
        y.addcmul_(x, D.unsqueeze(1))
    return (y if kind == y.dtype else y.to(kind)), state


def conv_step(
    window: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None = None, *, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """One step of `causal_conv`: y = bias + sum_{i<K} weight[:, i] (window, u)_i.

    window (B,E,K-1): the inputs before, oldest first; u (B,E); weight (E,K); bias (E) or None. Returns y (B,E) and the
    next window (B,E,K-1).
    """
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
