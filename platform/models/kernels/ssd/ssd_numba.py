"""The SSD of Mamba-2 compiled by numba for the CPU: the recurrence itself, with the state in registers.

Promises: bit-identical results for every number of threads and every chunk size (there is no chunk), with and without
read-outs and gradients; training keeps nothing but the inputs; the gradient with respect to later inputs is exactly
zero; first derivatives only. One token goes to `step_numba`, or to the torch backend where it does not fit. Loops:
`ssd_loops`.
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
from ..scan.scan_numba import flat, widened
from ..step.step_numba import fits, ssd_step_numba
from .ssd_loops import input_gradients, key_gradients, recur
from .ssd_reference import SsdCall
from .ssd_torch import ssd_torch


def _padded(count: int, lanes: int) -> int:
    return -(-count // lanes) * lanes


class _Plan:
    """Sizes of one call: width and states padded to whole vectors, and where the read-outs go."""

    def __init__(self, x: Tensor, B: Tensor, positions: tuple[int, ...]) -> None:
        self.batch, self.time, self.heads, self.real_width = x.shape
        self.groups, self.real_size = B.shape[2:]
        self.lanes = VECTOR_BYTES // x.element_size()
        self.width, self.size = _padded(self.real_width, self.lanes), _padded(self.real_size, self.lanes)
        self.reads = len(positions)
        self.slot = np.full(self.time, -1, np.int64)
        self.slot[list(positions)] = np.arange(len(positions))
        sizes = (self.time, self.heads, self.heads // self.groups, self.width, self.size)
        self.recur_shape = (*sizes, self.real_size, self.reads, self.lanes)
        self.keys_shape = (*sizes, self.real_width, self.reads, self.lanes)

    def states(self, state: Tensor) -> Tensor:
        """(..., P, N) padded on both axes."""
        missing = (0, self.size - self.real_size, 0, self.width - self.real_width)
        return torch.nn.functional.pad(state, missing) if any(missing) else state.contiguous()


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, initial_state, reset, positions):
        plan = _Plan(x, B, positions)
        batch, time, heads = delta.shape
        decay = torch.exp(delta * A)
        if reset is not None:
            decay.masked_fill_(reset[..., None], 0.0)
        decay = torch.nn.functional.pad(decay.transpose(1, 2), (0, 1)).contiguous()
        x = widened(x, plan.width).contiguous()
        written = x * delta[..., None]
        B, C = widened(B, plan.size).contiguous(), widened(C, plan.size).contiguous()
        start = x.new_empty(0) if initial_state is None else plan.states(initial_state)
        y = torch.zeros_like(x) if D is None else x * D[:, None]
        read = x.new_empty(batch, plan.reads, heads, plan.size, plan.width)
        by_key = start.transpose(2, 3) if initial_state is not None else start
        arrays = [flat(tensor) for tensor in (written, B, C, decay, by_key)]
        outputs = [flat(y), flat(read), flat(x.new_empty(0))]
        run_tasks(recur, batch * heads, plan.recur_shape, *arrays, plan.slot, False, *outputs)
        y = y[..., : plan.real_width].contiguous()
        ctx.save_for_backward(x, delta, A, B, C, D, decay, start)
        ctx.plan, ctx.has_start = plan, initial_state is not None
        ctx.set_materialize_grads(False)
        # States beyond real_size are never computed.
        return y, read[:, :, :, : plan.real_size, : plan.real_width].transpose(3, 4).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_read: Tensor | None):
        x, delta, A, B, C, D, decay, start = ctx.saved_tensors
        plan: _Plan = ctx.plan
        batch, time, heads = delta.shape
        written = x * delta[..., None]
        grad = torch.zeros_like(x) if grad_y is None else widened(grad_y, plan.width).contiguous()
        wide_read = x.new_empty(0) if grad_read is None else plan.states(grad_read)
        grad_written = torch.zeros_like(written)
        grad_B, grad_C = torch.zeros_like(B), torch.zeros_like(C)
        partial = x.new_zeros(plan.size // plan.lanes, batch, time, heads)
        grad_start = x.new_empty(batch, heads, plan.size, plan.width) if ctx.has_start else x.new_empty(0)

        read_by_key = wide_read if grad_read is None else wide_read.transpose(3, 4)
        arrays = [flat(tensor) for tensor in (grad, C, B, decay, x.new_empty(0))]
        outputs = [flat(tensor) for tensor in (grad_written, read_by_key, grad_start)]
        run_tasks(recur, batch * heads, plan.recur_shape, *arrays, plan.slot, True, *outputs)

        arrays = [flat(tensor) for tensor in (written, B, C, decay, start)]
        outputs = [flat(tensor) for tensor in (grad, wide_read, grad_B, grad_C, partial)]
        tasks = batch * plan.groups * (plan.size // plan.lanes)
        run_tasks(key_gradients, tasks, plan.keys_shape, *arrays, plan.slot, *outputs)

        grad_exponent = partial[0]
        for other in partial[1:]:
            grad_exponent += other
        grad_x = torch.empty_like(x)
        through_written, grad_skip = (delta.new_empty(batch, time, heads) for _ in range(2))
        skip = x.new_zeros(heads) if D is None else D
        arrays = [flat(tensor) for tensor in (x, delta, skip, grad_written, grad)]
        outputs = [flat(tensor) for tensor in (grad_x, through_written, grad_skip)]
        run_tasks(input_gradients, batch * time * heads, plan.lanes, plan.width, *arrays, *outputs)

        grad_A = _over_time(grad_exponent * delta)
        grad_delta = through_written.addcmul_(grad_exponent, A)
        keys = slice(0, plan.real_size)
        if ctx.has_start:
            grad_start = grad_start[:, :, keys, : plan.real_width].transpose(2, 3)
        return (
            grad_x[..., : plan.real_width], grad_delta, grad_A, grad_B[..., keys], grad_C[..., keys],
            None if D is None else _over_time(grad_skip), grad_start if ctx.has_start else None, None, None,
        )  # fmt: skip


def _over_time(tensor: Tensor) -> Tensor:
    """(B,T,H) -> (H), summed by numpy, which uses one thread: torch's order may depend on how many it has. In float64,
    because the terms of a long text cancel."""
    terms = tensor.permute(2, 0, 1).reshape(tensor.shape[2], -1).numpy()
    return torch.from_numpy(terms.sum(1, dtype=np.float64)).to(tensor.dtype)


@kernel("ssd", "numba")
def ssd_numba(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the states (B, len(positions), H, P, N) after the steps in `positions`; arguments as in `ssd`."""
    x, delta, A, B, C, D, _, initial_state, reset, positions = SsdCall(*arguments)
    if fits(x, B.shape[3]) and initial_state is not None and reset is None:
        y, state = ssd_step_numba(x, delta, A, B, C, D, initial_state)
        return y, state[:, None] if positions else None
    if x.shape[1] == 1:
        return ssd_torch(*arguments)
    y, read = _Ssd.apply(x, delta, A, B, C, D, initial_state, reset, positions)
    return y, read if positions else None
