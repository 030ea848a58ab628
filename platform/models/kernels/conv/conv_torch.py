"""The causal depthwise convolution in plain torch, on any device: one shifted multiply-add per tap.

Promises: first derivatives only; the gradient with respect to later inputs is exactly zero. The hand-written backward
is the reason for this file: it is two shifted multiply-adds per tap, where the depthwise backward of `conv1d` is
several times slower on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel


def crossing(reset: Tensor, window: int) -> list[Tensor | None]:
    """For each tap, oldest first, the (B,T,1) mask of outputs whose tap reaches over a document boundary; None for the
    current token."""
    document = reset.cumsum(1)
    padded = torch.nn.functional.pad(document, (window, 0))
    time = reset.shape[1]
    return [*((padded[:, i : i + time] != document)[..., None] for i in range(window)), None]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, weight, bias, past, reset):
        batch, time, channels = u.shape
        window = weight.shape[1] - 1
        padded = torch.cat((past, u), 1) if window else u
        masks = [None] * (window + 1) if reset is None else crossing(reset, window)
        taps = weight.t().contiguous()
        y = u * taps[window] if bias is None else torch.addcmul(bias, u, taps[window])
        for i in range(window):
            shifted = padded[:, i : i + time]
            mask = masks[i]
            y.addcmul_(shifted if mask is None else shifted.masked_fill(mask, 0.0), taps[i])
        ctx.save_for_backward(padded, taps, reset)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor):
        padded, taps, reset = ctx.saved_tensors
        window = taps.shape[0] - 1
        time = padded.shape[1] - window
        masks = [None] * (window + 1) if reset is None else crossing(reset, window)
        grad_padded = torch.zeros_like(padded)
        grad_taps = torch.empty_like(taps)
        for i, mask in enumerate(masks):
            # Masking the output's gradient keeps this tap out of both sums, also where an old document has overflowed.
            shifted, grad = padded[:, i : i + time], grad_y
            if mask is not None:
                shifted, grad = shifted.masked_fill(mask, 0.0), grad.masked_fill(mask, 0.0)
            grad_padded[:, i : i + time].addcmul_(grad, taps[i])
            grad_taps[i] = (grad * shifted).sum((0, 1))
        grad_bias = grad_y.sum((0, 1)) if ctx.has_bias else None
        return grad_padded[:, window:], grad_taps.t(), grad_bias, grad_padded[:, :window], None


@kernel("conv", "torch")
def conv_torch(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `causal_conv`."""
    batch, _, channels = u.shape
    if initial_state is None:
        past = u.new_zeros(batch, weight.shape[1] - 1, channels)
    else:
        past = initial_state.transpose(1, 2)
    return _Conv.apply(u, weight, bias, past, reset)
