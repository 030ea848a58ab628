"""The public causal depthwise convolution and the window of inputs that it carries on."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UsageError
from .arguments import expect_rank, expect_reset, expect_shape, floating, full_precision
from .registry import select


def causal_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The causal depthwise convolution in front of the scan, without an activation.

        y_t = bias + sum_{i<K} weight[:, i] u_{t-K+1+i}        (the last tap weighs the current token)

    u (B,T,E); weight (E,K); bias (E) or None. initial_state (B,E,K-1): the K-1 inputs before the first, oldest first,
    zero if None. reset (B,T) bool: True where a new document starts, inputs before it do not reach outputs from it on.
    Returns y (B,T,E), or (y, state (B,E,K-1)) with the last K-1 inputs, zero where they lie before the last document
    start.

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
    if initial_state is not None:
        expect_shape(call, "initial_state", initial_state, (batch, channels, taps - 1), "(batch, channels, taps - 1)")
    expect_reset(call, reset, batch, time)
    run = select("conv", u, backend, empty=not u.numel())
    with full_precision(u):
        u_, weight_, bias_, past = floating(
            call, {"u": u, "weight": weight, "bias": bias, "initial_state": initial_state}
        )
        assert u_ is not None
        y = run(u_, weight_, bias_, past, reset).to(u.dtype)
        return (y, _conv_state(u_, past, reset, taps - 1)) if return_state else y


def _conv_state(u: Tensor, past: Tensor | None, reset: Tensor | None, window: int) -> Tensor:
    """The last `window` inputs (B,E,window), oldest first, zero where they belong to an earlier document than the last
    input."""
    kept = u[:, max(0, u.shape[1] - window) :].transpose(1, 2)
    missing = window - kept.shape[2]
    if missing:
        before = kept.new_zeros(*kept.shape[:2], missing) if past is None else past[..., past.shape[2] - missing :]
        kept = torch.cat((before, kept), 2)
    if reset is not None:
        document = torch.nn.functional.pad(reset.cumsum(1), (window, 0))
        old = document[:, document.shape[1] - window :] != document[:, -1:]
        kept = kept.masked_fill(old[:, None, :], 0.0)
    return kept
