"""The causal depthwise convolution as Triton kernels of our own, for a GPU.

Promises: forward and backward, float32 or float64; earlier inputs, resets and any number of taps; the same bits in
every run; first derivatives only; no copy of the input and no buffer as long as the sequence besides the results.

Layouts, all contiguous: u, y (B,T,E); past (B,K-1,E), oldest first; weight (K,E); bias (E); document (B,T): the number
of resets up to and with a step, so that two steps belong together iff it is equal; the past is document 0. One program
computes a tile (BLOCK_T, BLOCK_E). An argument that is None is compiled away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from ..compiled.launch_triton import constexpr, on_device, tl, triton

BLOCK_T = 32
BLOCK_E = 64
CONSTANTS: dict[str, Any] = {"BLOCK_T": BLOCK_T, "BLOCK_E": BLOCK_E, "num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _input(u, past, s, batch, time, window, e, channels, wanted):
    """The tile of inputs at the times s (BLOCK_T), those before the sequence from `past`; zero where not `wanted`."""
    inside = wanted & (s >= 0)[:, None] & (s < time)[:, None]
    value = tl.load(u + (batch * time + s[:, None]) * channels + e[None, :], mask=inside, other=0.0)
    if past is not None:
        before = wanted & (s < 0)[:, None] & (s >= -window)[:, None]
        value += tl.load(past + (batch * window + window + s[:, None]) * channels + e[None, :], mask=before, other=0.0)
    return value


@triton.jit
def _document(document, s, batch, time):
    """The documents of the times s, 0 before the sequence."""
    return tl.load(document + batch * time + s, mask=(s >= 0) & (s < time), other=0)


@triton.jit
def _forward(
    u, past, weight, bias, document, y, time, channels, window, blocks, BLOCK_T: constexpr, BLOCK_E: constexpr
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // blocks
    t = (row % blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    wanted = (t < time)[:, None] & (e < channels)[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_E), u.dtype.element_ty)
    if bias is not None:
        total += tl.load(bias + e, mask=e < channels, other=0.0)[None, :]
    for i in range(0, window + 1):
        s = t - window + i
        reached = wanted
        if document is not None:
            same = _document(document, s, batch, time) == _document(document, t, batch, time)
            reached = reached & same[:, None]
        tap = tl.load(weight + i * channels + e, mask=e < channels, other=0.0)
        total += tap[None, :] * _input(u, past, s, batch, time, window, e, channels, reached)
    tl.store(y + (batch * time + t[:, None]) * channels + e[None, :], total, mask=wanted)


@triton.jit
def _backward(
    u, past, weight, document, grad_y, grad_u, grad_past, grad_weight, time, channels, window, blocks,
    BLOCK_T: constexpr, BLOCK_E: constexpr,
):  # fmt: skip
    """The gradients of a tile of inputs, the past included, and this tile's part of the gradient of the weight (B,
    blocks, K, E)."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // blocks
    # Time s of the input; the first tile begins with the past.
    s = (row % blocks) * BLOCK_T + tl.arange(0, BLOCK_T) - window
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    e_in = (e < channels)[None, :]
    wanted = e_in & (s < time)[:, None]
    total = tl.zeros((BLOCK_T, BLOCK_E), u.dtype.element_ty)
    for i in range(0, window + 1):
        # The output that reaches this input with tap i.
        t = s + window - i
        reached = wanted & (t >= 0)[:, None] & (t < time)[:, None]
        if document is not None:
            same = _document(document, s, batch, time) == _document(document, t, batch, time)
            reached = reached & same[:, None]
        dy = tl.load(grad_y + (batch * time + t[:, None]) * channels + e[None, :], mask=reached, other=0.0)
        tap = tl.load(weight + i * channels + e, mask=e < channels, other=0.0)
        total += tap[None, :] * dy
        part = tl.sum(dy * _input(u, past, s, batch, time, window, e, channels, reached), 0)
        tl.store(grad_weight + (row * (window + 1) + i) * channels + e, part, mask=e < channels)
    here = wanted & (s >= 0)[:, None]
    tl.store(grad_u + (batch * time + s[:, None]) * channels + e[None, :], total, mask=here)
    if past is not None:
        place = (batch * window + window + s[:, None]) * channels + e[None, :]
        tl.store(grad_past + place, total, mask=e_in & (s < 0)[:, None])


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, weight, bias, past, reset):
        batch, time, channels = u.shape
        window = weight.shape[1] - 1
        ctx.has_past = past is not None
        # Without a window there is no past, and an empty tensor has no address.
        past = None if past is None or not window else past.transpose(1, 2).contiguous()
        u, taps = u.contiguous(), weight.t().contiguous()
        bias = None if bias is None else bias.contiguous()
        document = None if reset is None else reset.cumsum(1, dtype=torch.int32)
        blocks = triton.cdiv(time, BLOCK_T)
        y = torch.empty_like(u)
        with on_device(u):
            _forward[batch * blocks, triton.cdiv(channels, BLOCK_E)](
                u, past, taps, bias, document, y, time, channels, window, blocks, **CONSTANTS
            )
        ctx.save_for_backward(u, past, taps, document)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor):
        u, past, taps, document = ctx.saved_tensors
        batch, time, channels = u.shape
        window = taps.shape[0] - 1
        grad_y = grad_y.contiguous()
        blocks = triton.cdiv(time + window, BLOCK_T)
        grad_u = torch.empty_like(u)
        grad_past = u.new_empty(batch, window, channels) if ctx.has_past else None
        parts = u.new_empty(batch * blocks, window + 1, channels)
        with on_device(u):
            _backward[batch * blocks, triton.cdiv(channels, BLOCK_E)](
                u,
                past,
                taps,
                document,
                grad_y,
                grad_u,
                grad_past if window else None,
                parts,
                time,
                channels,
                window,
                blocks,
                **CONSTANTS,
            )
        grad_bias = grad_y.sum((0, 1)) if ctx.has_bias else None
        grad_past = None if grad_past is None else grad_past.transpose(1, 2)
        return grad_u, parts.sum(0).t(), grad_bias, grad_past, None


@kernel("conv", "triton")
def conv_triton(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `causal_conv`."""
    return _Conv.apply(u, weight, bias, initial_state, reset)
