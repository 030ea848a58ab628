"""The selective scan as Triton kernels of our own, for a GPU: parallel over sequences, channels and chunks of time.

Promises: forward and backward, float32 or float64; initial state, resets, states at any positions and the gradients of
all of them; y does not depend on which states are read out; the same bits in every run; first derivatives only. Memory
for training is one state per STEPS tokens (the scan keeps it for the backward, which needs two more while it runs), not
one per token, plus the parts of the gradients of B and C: N / BLOCK_E times the size of x each.

How: h is affine in the state that enters a chunk, with the factor exp(A sum Delta). So all chunks start from zero at
once, a short recurrence over chunks gives every chunk its true start, and all chunks run again at once from there for
y. The backward does the same with the adjoint, from the end, and recomputes the states of a chunk in registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from ..compiled.launch_triton import carry, chunks_with_reset, on_device, reset_bytes, triton
from .scan_reference import ScanCall
from .scan_triton_kernels import gradients, local_adjoints, local_states, outputs

# Tokens in a chunk: their states have to fit into the registers of one program of the backward.
STEPS = 16
# Elements of a state that one program holds at most, and per warp: 4 registers per thread for each of the STEPS states,
# of which the compiler spills about 150 bytes a thread (seen in its output for compute capability 9.0).
BLOCK_ELEMENTS = 1024
WARP_ELEMENTS = 128
BLOCK_CHANNELS = 32


class _Blocks:
    """How one call is cut into programs, and the compile-time arguments of its kernels."""

    def __init__(self, x: Tensor, size: int) -> None:
        self.batch, self.time, self.channels = x.shape
        self.size, self.count = size, triton.cdiv(self.time, STEPS)
        block_n = triton.next_power_of_2(size)
        block_e = max(1, min(BLOCK_CHANNELS, triton.next_power_of_2(self.channels), BLOCK_ELEMENTS // block_n))
        self.columns = triton.cdiv(self.channels, block_e)
        self.grid = (self.batch * self.count, self.columns)
        self.shape = (self.time, self.channels, size, self.count)
        warps = max(1, min(8, block_e * block_n // WARP_ELEMENTS))
        self.constants: dict[str, Any] = {
            "STEPS": STEPS, "BLOCK_E": block_e, "BLOCK_N": block_n, "num_warps": warps, "enable_fp_fusion": True,
        }  # fmt: skip


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, initial_state, reset, positions):
        x, delta, A, B, C = (tensor.contiguous() for tensor in (x, delta, A, B, C))
        start = None if initial_state is None else initial_state.contiguous()
        blocks = _Blocks(x, A.shape[1])
        readouts = C.shape[2] if C.ndim == 4 else 1
        skip, cut = reset_bytes(reset), chunks_with_reset(reset, blocks.count, STEPS)
        slots = _slots(positions, blocks.time, x.device)
        starts = x.new_empty(blocks.batch, blocks.count, blocks.channels, blocks.size)
        total = x.new_empty(blocks.batch, blocks.count, blocks.channels)
        y = x.new_empty(*C.shape[:-1], blocks.channels)
        read = x.new_empty(blocks.batch, len(positions), blocks.channels, blocks.size)
        with on_device(x):
            if blocks.count > 1 or any(ctx.needs_input_grad):
                local_states[blocks.grid](x, delta, A, B, skip, starts, total, *blocks.shape, **blocks.constants)
                carry(starts, A, total, cut, start)
            else:
                # A decode step: nothing to carry, one launch.
                starts = torch.zeros_like(starts) if start is None else start[:, None]
            outputs[blocks.grid](
                x, delta, A, B, C, D, skip, starts, slots, y, read, *blocks.shape, len(positions),
                READOUTS=readouts, **blocks.constants,
            )  # fmt: skip
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, delta, A, B, C, D, reset, starts, total, slots)
            ctx.has_start, ctx.positions = start is not None, len(positions)
        ctx.set_materialize_grads(False)
        return y, read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_read: Tensor | None):
        x, delta, A, B, C, D, reset, starts, total, slots = ctx.saved_tensors
        blocks = _Blocks(x, A.shape[1])
        skip, cut = reset_bytes(reset), chunks_with_reset(reset, blocks.count, STEPS)
        shape = (*C.shape[:-1], blocks.channels)
        dy: Tensor = x.new_zeros(shape) if grad_y is None else grad_y.contiguous()
        grad_read = None if grad_read is None or not ctx.positions else grad_read.contiguous()
        incoming = torch.empty_like(starts)
        grad_x, grad_delta = torch.empty_like(x), torch.empty_like(delta)
        parts_B, parts_C = (x.new_empty(blocks.columns, *tensor.shape) for tensor in (B, C))
        readouts = C.shape[2] if C.ndim == 4 else 1
        sizes = (*blocks.shape, ctx.positions)
        with on_device(x):
            local_adjoints[blocks.grid](
                delta, A, C, skip, slots, dy, grad_read, incoming, *sizes, READOUTS=readouts, **blocks.constants
            )
            grad_start = carry(incoming, A, total, cut, None, reverse=True)
            gradients[blocks.grid](
                x, delta, A, B, C, D, skip, starts, slots, dy, grad_read, incoming,
                grad_x, grad_delta, parts_B, parts_C, *sizes, READOUTS=readouts, **blocks.constants,
            )  # fmt: skip
        # D skips to read-out 0 alone.
        own = dy if C.ndim == 3 else dy[:, :, 0]
        grad_D = None if D is None else (own * x).sum((0, 1))
        # The kernel has left its parts of grad_A in place of the adjoints.
        grad_A = incoming.sum((0, 1))
        start = grad_start if ctx.has_start else None
        return grad_x, grad_delta, grad_A, parts_B.sum(0), parts_C.sum(0), grad_D, start, None, None


def _slots(positions: tuple[int, ...], time: int, device: torch.device) -> Tensor:
    """(T): the place of each position in the states read out, -1 elsewhere."""
    slots = torch.full((time,), -1, dtype=torch.int32)
    slots[list(positions)] = torch.arange(len(positions), dtype=torch.int32)
    return slots.to(device)


@kernel("scan", "triton")
def scan_triton(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,E), or (B,T,R,E) for C (B,T,R,N), and the states (B, len(positions), E, N) after the steps in `positions`;
    arguments as in `selective_scan`."""
    call = ScanCall(*arguments)
    y, read = _Scan.apply(*call)
    return y, read if call.positions else None
