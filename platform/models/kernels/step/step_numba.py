"""One decode step of the scan, the SSD and the convolution, compiled by numba for the CPU.

Plain torch takes five to eight operations for each, every one a pass over the whole state and a call from Python. Used
by the numba backends for sequences of one token where no gradient is asked for and the states fill whole vectors
(N a multiple of 16 in float32, of 8 in float64); `fits` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..compiled.simd import VECTOR_BYTES
from ..compiled.threads import run_tasks
from .step_loops import conv_step, norm_step, scan_step, ssd_step

# Below this many numbers in the states a second thread costs more than it gains.
ENOUGH = 1 << 19


def fits(x: Tensor, states: int) -> bool:
    """Whether these loops can take a step with `states` states per channel."""
    whole = x.dtype in (torch.float32, torch.float64) and states % (VECTOR_BYTES // x.element_size()) == 0
    return x.shape[1] == 1 and whole and not torch.is_grad_enabled()


def _flat(tensor: Tensor | None, like: Tensor):
    return like.new_empty(0).numpy() if tensor is None else tensor.detach().numpy().reshape(-1)


def _run(loop, size: int, batch: int, *arguments) -> None:
    if size < ENOUGH:
        loop(0, batch, *arguments)
    else:
        run_tasks(loop, batch, *arguments)


def _next(state: Tensor, overwrite: bool) -> Tensor:
    """Where the next state goes. New memory for a large state costs more than the arithmetic of the step."""
    if overwrite and state.is_contiguous():
        return state
    return torch.empty_like(state, memory_format=torch.contiguous_format)


def scan_step_numba(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """y (B,1,E) and the state (B,E,N) after the one token of x, delta (B,1,E); B, C (B,1,N); state (B,E,N).

    overwrite: the next state may take the memory of `state`.
    """
    batch, channels, states = state.shape
    y, after = torch.empty_like(x), _next(state, overwrite)
    shape = (channels, states, VECTOR_BYTES // x.element_size())
    arrays = [_flat(tensor, x) for tensor in (x, delta, A, B, C, D, state, y, after)]
    _run(scan_step, state.numel(), batch, shape, *arrays)
    return y, after


def ssd_step_numba(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """y (B,1,H,P) and the state (B,H,P,N) after one token; arguments as in `ssd`."""
    batch, heads, width, states = state.shape
    x_t, delta_t = x[:, 0], delta[:, 0]
    y = torch.zeros_like(x_t) if D is None else x_t * D[:, None]
    after = _next(state, overwrite)
    shape = (heads, width, B.shape[2], states, VECTOR_BYTES // x.element_size())
    given = (x_t * delta_t[..., None], torch.exp(delta_t * A), B, C)
    arrays = [_flat(tensor, x) for tensor in (*given, y, after, state)]
    _run(ssd_step, state.numel(), batch, shape, *arrays)
    return y[:, None], after


def conv_step_numba(u: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor) -> tuple[Tensor, Tensor]:
    """y (B,1,E) of one token u (B,1,E) after past (B,E,K-1), and the next window (B,E,K-1)."""
    y, after = torch.empty_like(u), torch.empty_like(past, memory_format=torch.contiguous_format)
    arrays = [_flat(tensor, u) for tensor in (u, weight, bias, past, y, after)]
    _run(conv_step, u.numel() * weight.shape[1], len(u), (u.shape[2], weight.shape[1]), *arrays)
    return y, after


def norm_step_numba(x: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
    """The root-mean-square norm of one token x (B,1,d), whose groups fill whole vectors."""
    y = torch.empty_like(x)
    shape = (x.shape[2], groups, VECTOR_BYTES // x.element_size())
    _run(norm_step, x.numel(), len(x), shape, *(_flat(tensor, x) for tensor in (x, weight, y)), eps)
    return y
