"""The selective scan in plain torch, on any device: chunks over time, a hand-written backward that recomputes.

Promises: memory for training is one state per chunk, not one per token; y does not depend on which states are read out;
the gradient of an output with respect to later inputs is exactly zero; first derivatives only.

How: inside a chunk the decays exp(Delta_t A) and the writes Delta_t B_t x_t are laid out time-major, (time, batch,
channels, states), so that one step of the recurrence is one fused multiply-add over contiguous memory. The backward
pass walks the chunks from the end, recomputes the states of one chunk from the state saved at its start, and runs the
adjoint recurrence
  l_t = C_t dy_t + (gradient of a read-out at t) + exp(Delta_{t+1} A) l_{t+1},
from which every gradient is a contraction. With several read-outs C_t dy_t is the sum over them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel
from .scan_reference import ScanCall, scan_reference

# Elements of one (time, batch, channels, states) tensor of a chunk: a few of them fit into a core's cache (measured).
CHUNK_ELEMENTS = 1 << 19
# Longer chunks save no more memory, and a decode step should not pay for a large one.
CHUNK_STEPS = 64


def chunk_length(batch: int, channels: int, states: int) -> int:
    """The number of steps per chunk, from the shape of one state alone (never from the number of threads)."""
    return max(4, min(CHUNK_STEPS, CHUNK_ELEMENTS // max(1, batch * channels * states)))


def _reset_steps(reset: Tensor | None) -> dict[int, Tensor]:
    """For each step at which some sequence starts a new document: the (B,1,1) mask of those sequences."""
    if reset is None:
        return {}
    return {t: reset[:, t, None, None] for t in torch.nonzero(reset.any(0)).flatten().tolist()}


def _chunk_states(
    delta: Tensor, written: Tensor, A: Tensor, B: Tensor, start: Tensor | None, resets: dict[int, Tensor], begin: int
) -> tuple[Tensor, Tensor]:
    """Decays and states of one chunk, both (c,B,E,N); time-major delta, written = delta * x (c,B,E) and B (c,B,N)."""
    decay = torch.exp(delta[..., None] * A)
    states = written[..., None] * B[:, :, None, :]
    previous = start
    for i in range(states.shape[0]):
        mask = resets.get(begin + i)
        if previous is not None:
            if mask is not None:
                previous = previous.masked_fill(mask, 0.0)
            states[i].addcmul_(decay[i], previous)
        previous = states[i]
    return decay, states


def _first(outputs: Tensor) -> Tensor:
    """The read-out (T,B,E) that D x is added to, of (T,B,E) or (T,B,R,E)."""
    return outputs if outputs.ndim == 3 else outputs[:, :, 0]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, initial_state, reset, positions):
        batch, time, channels = x.shape
        size = chunk_length(batch, channels, A.shape[1])
        x_t, delta_t, B_t, C_t = (tensor.transpose(0, 1).contiguous() for tensor in (x, delta, B, C))
        resets = _reset_steps(reset)
        needed = any(ctx.needs_input_grad)
        y_t = x_t.new_empty(*C_t.shape[:-1], channels)
        read = x.new_empty(len(positions), batch, channels, A.shape[1])
        starts: list[Tensor | None] = []
        previous = initial_state
        for begin in range(0, time, size):
            part = slice(begin, min(begin + size, time))
            starts.append(previous)
            _, states = _chunk_states(delta_t[part], delta_t[part] * x_t[part], A, B_t[part], previous, resets, begin)
            if C_t.ndim == 3:
                torch.matmul(states, C_t[part, :, :, None], out=y_t[part, :, :, None])
            else:
                torch.matmul(C_t[part], states.transpose(2, 3), out=y_t[part])
            for slot, position in enumerate(positions):
                if part.start <= position < part.stop:
                    read[slot] = states[position - begin]
            # A copy, so that the chunk's memory can be reused.
            previous = states[-1].clone()
        if D is not None:
            _first(y_t).addcmul_(x_t, D)
        if needed:
            ctx.save_for_backward(x_t, delta_t, A, B_t, C_t, D, initial_state, reset, *starts[1:])
            ctx.positions, ctx.size = positions, size
        ctx.set_materialize_grads(False)
        return y_t.transpose(0, 1).contiguous(), read.transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_read: Tensor | None):
        x_t, delta_t, A, B_t, C_t, D, initial_state, reset, *later_starts = ctx.saved_tensors
        starts = [initial_state, *later_starts]
        time, batch, channels = x_t.shape
        resets = _reset_steps(reset)
        if grad_y is None:
            grad_y_t = x_t.new_zeros(*C_t.shape[:-1], channels)
        else:
            grad_y_t = grad_y.transpose(0, 1).contiguous()
        read_at = {} if grad_read is None else dict(zip(ctx.positions, grad_read.unbind(1), strict=True))
        grad_x, grad_delta, grad_B, grad_C = (torch.empty_like(tensor) for tensor in (x_t, delta_t, B_t, C_t))
        grad_A = torch.zeros_like(A)
        carried: Tensor | None = None
        for number in range(len(starts) - 1, -1, -1):
            begin = number * ctx.size
            part = slice(begin, min(begin + ctx.size, time))
            dt, written, B_part = delta_t[part], delta_t[part] * x_t[part], B_t[part]
            decay, states = _chunk_states(dt, written, A, B_part, starts[number], resets, begin)
            if C_t.ndim == 3:
                grad_C[part] = torch.matmul(grad_y_t[part, :, None, :], states).squeeze(2)
                adjoint = grad_y_t[part, ..., None] * C_t[part, :, None, :]
            else:
                grad_C[part] = torch.matmul(grad_y_t[part], states)
                adjoint = torch.matmul(grad_y_t[part].transpose(2, 3), C_t[part])
            for i in range(adjoint.shape[0] - 1, -1, -1):
                if carried is not None:
                    adjoint[i].add_(carried) if i == adjoint.shape[0] - 1 else adjoint[i].addcmul_(
                        decay[i + 1], carried
                    )
                if begin + i in read_at:
                    adjoint[i].add_(read_at[begin + i])
                # What step i hands to step i-1: nothing, where step i starts a document.
                mask = resets.get(begin + i)
                carried = adjoint[i] if mask is None else adjoint[i].masked_fill(mask, 0.0)
            assert carried is not None
            carried = decay[0] * carried
            grad_written = torch.matmul(adjoint, B_part[..., None]).squeeze(-1)
            grad_B[part] = torch.matmul(written[:, :, None, :], adjoint).squeeze(2)
            grad_x[part] = grad_written * dt
            # d/d(Delta A) = l_t h_{t-1} exp(Delta_t A), with h_{t-1} = 0 at the start of a document.
            exponent = adjoint.mul_(decay)
            exponent[1:].mul_(states[:-1])
            first = starts[number]
            exponent[0].zero_() if first is None else exponent[0].mul_(first)
            for t, mask in resets.items():
                if part.start <= t < part.stop:
                    exponent[t - begin].masked_fill_(mask, 0.0)
            grad_delta[part] = torch.einsum("cben,en->cbe", exponent, A).addcmul_(grad_written, x_t[part])
            grad_A += torch.einsum("cben,cbe->en", exponent, dt)
        grad_D = None
        if D is not None:
            grad_x.addcmul_(_first(grad_y_t), D)
            grad_D = (_first(grad_y_t) * x_t).sum((0, 1))
        grad_start = carried if initial_state is not None else None
        batch_major = (tensor.transpose(0, 1) for tensor in (grad_x, grad_delta, grad_B, grad_C))
        grad_x, grad_delta, grad_B, grad_C = batch_major
        return grad_x, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_start, None, None


@kernel("scan", "torch")
def scan_torch(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,E) or (B,T,R,E) and the states (B, len(positions), E, N) after the steps in `positions`; arguments as in
    `selective_scan`."""
    call = ScanCall(*arguments)
    if call.x.shape[1] == 1:
        # A decode step: the plain definition is a third faster than preparing chunks.
        return scan_reference(*call)
    y, read = _Scan.apply(*call)
    return y, read if call.positions else None
