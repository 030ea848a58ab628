"""The SSD of Mamba-2 as Triton kernels of our own, for a GPU: matrix products in chunks, a recurrence between them.

Promises: forward and backward, float32 or float64; initial state, resets, states at any positions and the gradients of
all of them; every chunk size gives the same y and states up to rounding; y does not depend on which states are read
out; the same bits in every run; first derivatives only. Memory for training is one state per chunk and, while the
backward runs, a second one, plus the gradients of B and C for every head.

The matrix products are in float32 in the sense of its 24 bits: tensor cores with three products of split numbers
("tf32x3"), not the single rounded one. One token, the decode step, and states in the middle of a chunk are left to the
torch backend's formulas, which are a few small operations there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from ..compiled.launch_triton import carry, chunks_with_reset, on_device, reset_bytes, triton
from .ssd_chunks import ChunkLayout
from .ssd_reference import SsdCall
from .ssd_torch import ssd_torch, states_inside
from .ssd_triton_kernels import local_states, outputs, state_vector_gradients, value_gradients

# Tokens in a chunk, at least what a tensor core takes.
SMALLEST_CHUNK, LARGEST_CHUNK = 16, 64
# Wider heads are cut into several narrow ones with the same Delta and A: the rows of a state do not meet.
LARGEST_WIDTH = 64
# Columns of the state taken at a time, bounded by shared memory.
BLOCK_COLUMNS = 32


class _Blocks:
    """How one call is cut into programs, and the compile-time arguments of its kernels."""

    def __init__(self, x: Tensor, B: Tensor, steps: int) -> None:
        self.batch, self.time, self.heads, self.width = x.shape
        groups, self.size = B.shape[2:]
        self.count = triton.cdiv(self.time, steps)
        block_p = max(16, triton.next_power_of_2(self.width))
        block_n = max(16, min(BLOCK_COLUMNS, triton.next_power_of_2(self.size)))
        self.grid = (self.batch * self.count, self.heads)
        self.slices = triton.cdiv(self.size, block_n)
        self.shape = (self.time, self.heads, self.width, groups, self.size, self.count)
        self.constants: dict[str, Any] = {
            "Q": steps, "BLOCK_P": block_p, "BLOCK_N": block_n, "num_warps": 4 if block_p <= 16 else 8,
            "PRECISION": "ieee" if x.dtype == torch.float64 else "tf32x3", "enable_fp_fusion": True,
        }  # fmt: skip


def chunk_length(chunk: int, x: Tensor) -> int:
    """The chunk of the kernels: a power of two near the one asked for, as far as the registers of the GPU go (by the
    compiler's own count: with 64 tokens they spill, except where tensor cores read from shared memory)."""
    wide = x.dtype != torch.float64
    if x.is_cuda and torch.version.hip is None:
        wide = wide and torch.cuda.get_device_capability(x.device)[0] in (9, 10)
    return max(SMALLEST_CHUNK, min(LARGEST_CHUNK if wide else LARGEST_CHUNK // 2, triton.next_power_of_2(chunk)))


class _Ssd(torch.autograd.Function):
    """-> y (B,T,H,P), the states entering the chunks (B, count, H, P, N), the state at the end (B,H,P,N)."""

    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, start, reset, steps):
        x, delta, A, B, C = (tensor.contiguous() for tensor in (x, delta, A, B, C))
        start = None if start is None else start.contiguous()
        blocks = _Blocks(x, B, steps)
        skip, cut = reset_bytes(reset), chunks_with_reset(reset, blocks.count, steps)
        starts = x.new_empty(blocks.batch, blocks.count, blocks.heads, blocks.width, blocks.size)
        total = x.new_empty(blocks.batch, blocks.count, blocks.heads)
        y = torch.empty_like(x)
        with on_device(x):
            local_states[(*blocks.grid, blocks.slices)](
                x, delta, A, B, skip, starts, total, *blocks.shape, BACKWARD=False, **blocks.constants
            )
            final = carry(starts, A, total, cut, start)
            outputs[blocks.grid](x, delta, A, B, C, D, skip, starts, y, *blocks.shape, **blocks.constants)
        ctx.save_for_backward(x, delta, A, B, C, D, reset, starts, total)
        ctx.has_start, ctx.steps = start is not None, steps
        ctx.set_materialize_grads(False)
        return y, starts, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_starts: Tensor | None, grad_final: Tensor | None):
        x, delta, A, B, C, D, reset, starts, total = ctx.saved_tensors
        blocks = _Blocks(x, B, ctx.steps)
        skip, cut = reset_bytes(reset), chunks_with_reset(reset, blocks.count, ctx.steps)
        grad_y = torch.zeros_like(x) if grad_y is None else grad_y.contiguous()
        incoming = torch.empty_like(starts)
        grad_x, grad_delta, grad_A = torch.empty_like(x), torch.empty_like(delta), torch.empty_like(total)
        parts_B, parts_C = (x.new_empty(*x.shape[:3], blocks.size) for _ in range(2))
        with on_device(x):
            local_states[(*blocks.grid, blocks.slices)](
                grad_y, delta, A, C, skip, incoming, total, *blocks.shape, BACKWARD=True, **blocks.constants
            )
            if grad_starts is not None:
                incoming += grad_starts
            final = None if grad_final is None else grad_final.contiguous()
            grad_start = carry(incoming, A, total, cut, final, reverse=True)
            value_gradients[blocks.grid](
                x, delta, A, B, C, D, skip, starts, grad_y, incoming, grad_x, grad_delta, grad_A,
                *blocks.shape, **blocks.constants,
            )  # fmt: skip
            # Two kernels, although both need dy w^T: one with all seven products spills thousands of bytes a thread.
            state_vector_gradients[(*blocks.grid, blocks.slices)](
                x, delta, A, B, C, skip, starts, grad_y, incoming, parts_B, parts_C, *blocks.shape, **blocks.constants
            )
        grad_B, grad_C = (parts.unflatten(2, (B.shape[2], -1)).sum(3) for parts in (parts_B, parts_C))
        grad_D = None if D is None else (grad_y * x).sum((0, 1, 3))
        start = grad_start if ctx.has_start else None
        return grad_x, grad_delta, grad_A.sum((0, 1)), grad_B, grad_C, grad_D, start, None, None


@kernel("ssd", "triton")
def ssd_triton(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the states (B, len(positions), H, P, N) after the steps in `positions`; arguments as in `ssd`."""
    x, delta, A, B, C, D, chunk, initial_state, reset, positions = SsdCall(*arguments)
    batch, time, heads, width = x.shape
    if time == 1:
        return ssd_torch(*arguments)
    steps = chunk_length(chunk, x)
    parts = next(parts for parts in range(1, width + 1) if width % parts == 0 and width // parts <= LARGEST_WIDTH)
    narrow = (heads * parts, width // parts)
    per_part = [None if each is None else each.repeat_interleave(parts, -1) for each in (delta, A, D)]
    start = None if initial_state is None else initial_state.reshape(batch, *narrow, -1)
    y, entering, final = _Ssd.apply(
        x.reshape(batch, time, *narrow), *per_part[:2], B, C, per_part[2], start, reset, steps
    )
    y = y.view(x.shape)
    if not positions:
        return y, None
    inside: dict[int, list[int]] = {}
    for position in positions:
        if position < time - 1:
            inside.setdefault(position // steps, []).append(position % steps)
    groups, at = B.shape[2], ChunkLayout.of(x, B.shape[2], steps)
    # (B, count, H, P, N) -> (B, count, G, N, heads of the group * P), the layout of the torch backend.
    grouped = entering.unflatten(2, (groups, -1)).permute(0, 1, 2, 5, 3, 4).flatten(4) if inside else entering
    states = [states_inside(k, wanted, at, x, delta, A, B, grouped[:, k], reset) for k, wanted in inside.items()]
    if positions[-1] == time - 1:
        states.append(final.view(batch, 1, heads, width, -1))
    return y, torch.cat(states, 1)
