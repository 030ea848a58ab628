"""The causal depthwise convolution compiled by numba for the CPU: one pass over memory each way.

Promises: bit-identical results for every number of threads; the gradient with respect to later inputs is exactly zero;
first derivatives only. One token goes to `step_numba`, or to the plain definition where it does not fit. Loops:
`conv_loops`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from ..compiled.simd import VECTOR_BYTES
from ..compiled.threads import run_tasks
from ..scan.scan_numba import flat, ordered_sum, widened
from ..step.step_numba import conv_step_numba
from .conv_loops import convolve, convolve_gradients
from .conv_reference import conv_reference


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, weight, bias, initial_state, reset):
        batch, time, channels = u.shape
        taps = weight.shape[1]
        lanes = VECTOR_BYTES // u.element_size()
        width = -(-channels // lanes) * lanes
        u, weight = widened(u, width).contiguous(), widened(weight.t(), width).contiguous()
        wide_bias = u.new_zeros(width) if bias is None else widened(bias, width).contiguous()
        if initial_state is None:
            past = u.new_zeros(batch, taps - 1, width)
        else:
            past = widened(initial_state.transpose(1, 2), width).contiguous()
        flags = torch.empty(0, dtype=torch.bool) if reset is None else reset
        y = torch.empty_like(u)
        ctx.shape = (time, width, taps, lanes)
        run_tasks(convolve, batch, ctx.shape, *map(flat, (u, past, weight, wide_bias, flags, y)))
        ctx.save_for_backward(u, past, weight, flags)
        ctx.channels, ctx.has_bias, ctx.has_past = channels, bias is not None, initial_state is not None
        return y[..., :channels].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor):
        u, past, weight, flags = ctx.saved_tensors
        batch, _, width = u.shape
        grad_y = widened(grad_y, width)
        grad_u, grad_past = torch.empty_like(u), torch.zeros_like(past)
        grad_weight, grad_bias = u.new_zeros(batch, *weight.shape), u.new_zeros(batch, width)
        tensors = (u, past, weight, flags, grad_y, grad_u, grad_past, grad_weight, grad_bias)
        run_tasks(convolve_gradients, batch, ctx.shape, *map(flat, tensors))
        real = slice(0, ctx.channels)
        return (
            grad_u[..., real],
            ordered_sum(grad_weight)[:, real].t(),
            ordered_sum(grad_bias)[real] if ctx.has_bias else None,
            grad_past[..., real].transpose(1, 2) if ctx.has_past else None,
            None,
        )


@kernel("conv", "numba")
def conv_numba(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `causal_conv`."""
    if u.shape[1] == 1 and initial_state is not None and reset is None and not torch.is_grad_enabled():
        return conv_step_numba(u, weight, bias, initial_state)[0]
    if u.shape[1] == 1:
        return conv_reference(u, weight, bias, initial_state, reset)
    return _Conv.apply(u, weight, bias, initial_state, reset)
