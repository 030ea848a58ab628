"""The public causal depthwise convolution and the window of inputs that it carries on."""

from __future__ import annotations

import torch
from torch import Tensor

from ....core.errors import UsageError
from ..arguments import expect_rank, expect_shape, floating, full_precision
from ..backend import select
from ..packing import Together, packing
from ..state_pool import pooled, starting_state
from .conv_windows import last_windows, windows_after


def causal_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    state_rows: Tensor | None = None,
    inplace: bool = False,
    reset: Tensor | None = None,
    seq_idx: Tensor | None = None,
    return_state: bool = False,
    return_document_states: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The causal depthwise convolution in front of the scan, without an activation.

        y_t = bias + sum_{i<K} weight[:, i] u_{t-K+1+i}        (the last tap weighs the current token)

    u (B,T,E); weight (E,K); bias (E) or None. initial_state (B,E,K-1): the K-1 inputs before the first, oldest first,
    zero if None; or a pool (S,E,K-1) with state_rows. reset (B,T) bool: True where a new document starts, inputs before
    it do not reach outputs from it on. seq_idx, state_rows, inplace: as in `selective_scan`; padding is not among the
    inputs that a tap counts back. Returns y (B,T,E), or (y[, state (B,E,K-1)][, states of documents (documents,
    E,K-1)]) with the last K-1 inputs of each, zero where they lie before the start of the document.

    Raises UsageError for the reasons listed in `selective_scan`.
    """
    call = "causal_conv"
    batch, time, channels = expect_rank(call, "u", u, "(batch, time, channels)")
    _, taps = expect_rank(call, "weight", weight, "(channels, taps)")
    expect_shape(call, "weight", weight, (channels, taps), "(channels, taps)")
    if taps < 1:
        raise UsageError(f"{call}: weight has shape {tuple(weight.shape)}, expected at least one tap")
    if bias is not None:
        expect_shape(call, "bias", bias, (channels,), "(channels,)")
    start = starting_state(
        call, initial_state, state_rows, (batch, channels, taps - 1), "channels, taps - 1", written=return_state,
        inplace=inplace,
    )  # fmt: skip
    packed = packing(call, reset, seq_idx, batch, time)
    together = None if packed.keep is None else Together.of(packed.keep)
    starts = packed.reset
    run = select("conv", u, backend, empty=not u.numel())
    with full_precision(u):
        u_, weight_, bias_, past = floating(
            call, {"u": packed.silence(u), "weight": weight, "bias": bias, "initial_state": start}
        )
        assert u_ is not None
        if together is not None:
            assert starts is not None
            u_, starts = Together.move(u_, together.order), Together.move(starts, together.order)
        y = run(u_, weight_, bias_, past, starts)
        if together is not None:
            y = packed.silence(Together.move(y, together.back))
        found: tuple[Tensor, ...] = (y.to(u.dtype),)
        if return_state and together is None:
            found += (last_windows(u_, past, starts, taps - 1),)
        elif return_state:
            assert together is not None
            rows = torch.arange(batch, device=u.device)
            found += (_windows(u_, past, starts, rows, together.lengths - 1, taps),)
        if return_document_states:
            rows, ends = packed.ends(batch, time, u.device)
            at = ends if together is None else together.back[rows, ends]
            found += (_windows(u_, past, starts, rows, at, taps),)
    if return_state:
        return pooled(found, initial_state, state_rows, inplace)
    return found if return_document_states else found[0]


def _windows(u: Tensor, past: Tensor | None, reset: Tensor | None, rows: Tensor, times: Tensor, taps: int) -> Tensor:
    past = u.new_zeros(u.shape[0], u.shape[2], taps - 1) if past is None else past
    return windows_after(u, past, rows, times, reset)
