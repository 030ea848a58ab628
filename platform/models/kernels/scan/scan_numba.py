"""The selective scan compiled by numba for the CPU: fused, vectorised over channels, parallel over sequences and
channel blocks.

Promises: bit-identical results for every number of threads, with and without read-outs and gradients; memory for
training is one state per `CHECKPOINT_STEPS` tokens (the backward pass recomputes between them); the gradient of an
output with respect to later inputs is exactly zero; first derivatives only. Loops: `scan_loops`. The first call
compiles (seconds), later processes load the result from numba's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from ..compiled.simd import VECTOR_BYTES
from ..compiled.threads import run_tasks
from ..step.step_numba import fits, scan_step_numba
from .scan_loops import backward, forward
from .scan_reference import ScanCall, scan_reference

# Measured: with 8 to 64 steps between two saved states the times differ by a tenth.
CHECKPOINT_STEPS = 32
# Measured: wide blocks read memory in longer runs, 16 vectors are a third faster than 4. Narrower ones only where a
# small batch would leave threads without work; the choice depends on the shapes alone, never on the number of threads.
BLOCK_VECTORS = (16, 8, 4)
ENOUGH_TASKS = 8


def flat(tensor: Tensor) -> np.ndarray:
    # Not .numpy(), after which the memory can never be freed as sharded training frees gathered weights.
    return np.from_dlpack(tensor.detach().contiguous()).reshape(-1)


def widened(tensor: Tensor, width: int) -> Tensor:
    """`tensor` with zero channels appended on the last axis up to `width`."""
    missing = width - tensor.shape[-1]
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


def ordered_sum(partials: Tensor) -> Tensor:
    """The sum over the first axis, one after the other, so that no number of threads changes it."""
    found = partials[0].clone()
    for partial in partials[1:]:
        found += partial
    return found


class _Plan:
    """Sizes of one call: padded width, vectors, blocks, read-outs, and where the states asked for go."""

    def __init__(self, x: Tensor, states: int, C: Tensor, positions: tuple[int, ...]) -> None:
        self.batch, self.time, self.channels = x.shape
        self.lanes = VECTOR_BYTES // x.element_size()
        self.width = -(-self.channels // self.lanes) * self.lanes
        for vectors in BLOCK_VECTORS:
            self.block = vectors * self.lanes
            self.blocks = -(-self.width // self.block)
            if self.batch * self.blocks >= ENOUGH_TASKS:
                break
        self.tasks = self.batch * self.blocks
        self.states, self.reads = states, len(positions)
        # (B,T) or (B,T,R): what stands in front of the channels of y and the states of C.
        self.outputs = C.shape[:-1]
        self.more = None if C.ndim == 3 else C.shape[2] - 1
        self.chunks = -(-self.time // CHECKPOINT_STEPS)
        self.slot = np.full(self.time, -1, np.int64)
        self.slot[list(positions)] = np.arange(len(positions))
        self.shape = (self.time, self.width, states, self.reads, self.lanes, self.block)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, initial_state, reset, positions):
        plan = _Plan(x, A.shape[1], C, positions)
        batch, states, width = plan.batch, plan.states, plan.width
        # From here on state-major, (..., states, channels), with the channels padded to whole vectors.
        wide_x, wide_delta, wide_A = (widened(tensor, width).contiguous() for tensor in (x, delta, A.t()))
        B, C = B.contiguous(), C.contiguous()
        wide_D = x.new_zeros(width) if D is None else widened(D, width).contiguous()
        if initial_state is None:
            start = x.new_zeros(batch, states, width)
        else:
            start = widened(initial_state.transpose(1, 2), width).contiguous()
        flags = np.empty(0, np.bool_) if reset is None else flat(reset)
        y = x.new_empty(*plan.outputs, width)
        read = x.new_empty(batch, plan.reads, states, width)
        saved = x.new_empty(batch, plan.chunks, states, width) if any(ctx.needs_input_grad) else x.new_empty(0)
        inputs = [flat(tensor) for tensor in (wide_x, wide_delta, wide_A, B, C, wide_D, start)]
        outputs = [flat(tensor) for tensor in (y, read, saved)]
        run_tasks(forward, plan.tasks, plan.shape, plan.more, *inputs, flags, plan.slot, CHECKPOINT_STEPS, *outputs)
        ctx.save_for_backward(wide_x, wide_delta, wide_A, B, C, wide_D, reset, saved)
        ctx.plan, ctx.has_D, ctx.has_start = plan, D is not None, initial_state is not None
        ctx.set_materialize_grads(False)
        return y[..., : plan.channels].contiguous(), read[..., : plan.channels].transpose(2, 3).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_read: Tensor | None):
        x, delta, A, B, C, D, reset, saved = ctx.saved_tensors
        plan: _Plan = ctx.plan
        batch, states, width = plan.batch, plan.states, plan.width
        flags = np.empty(0, np.bool_) if reset is None else flat(reset)
        wide_grad_y = x.new_zeros(*plan.outputs, width) if grad_y is None else widened(grad_y, width)
        wide_grad_read = x.new_empty(0) if grad_read is None else widened(grad_read.transpose(2, 3), width)
        grad_x, grad_delta = torch.empty_like(x), torch.empty_like(delta)
        grad_A, grad_D = x.new_zeros(batch, states, width), x.new_zeros(batch, width)
        grad_B, grad_C = (x.new_empty(plan.blocks, *tensor.shape) for tensor in (B, C))
        grad_start = x.new_empty(batch, states, width)
        inputs = [flat(tensor) for tensor in (x, delta, A, B, C, D)] + [flags, plan.slot, CHECKPOINT_STEPS]
        inputs += [flat(tensor) for tensor in (saved, wide_grad_y, wide_grad_read)]
        outputs = [flat(tensor) for tensor in (grad_x, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_start)]
        run_tasks(backward, plan.tasks, plan.shape, plan.more, *inputs, *outputs)
        real = slice(0, plan.channels)
        return (
            grad_x[..., real],
            grad_delta[..., real],
            ordered_sum(grad_A)[:, real].t(),
            ordered_sum(grad_B),
            ordered_sum(grad_C),
            ordered_sum(grad_D)[real] if ctx.has_D else None,
            grad_start[..., real].transpose(1, 2) if ctx.has_start else None,
            None,
            None,
        )


@kernel("scan", "numba")
def scan_numba(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,E) or (B,T,R,E) and the states (B, len(positions), E, N) after the steps in `positions`; arguments as in
    `selective_scan`."""
    x, delta, A, B, C, D, initial_state, reset, positions = ScanCall(*arguments)
    if fits(x, A.shape[1]) and C.ndim == 3 and initial_state is not None and reset is None:
        y, state = scan_step_numba(x, delta, A, B, C, D, initial_state)
        return y, state[:, None] if positions else None
    if x.shape[1] == 1:
        # One token otherwise: the plain definition is a third faster than preparing the loops over time.
        return scan_reference(*arguments)
    y, read = _Scan.apply(*arguments)
    return y, read if positions else None
