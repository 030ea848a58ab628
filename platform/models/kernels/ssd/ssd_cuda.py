"""The SSD of the package mamba_ssm, on an NVIDIA GPU: a wrapper around `mamba_chunk_scan_combined`.

Promises: the arguments as that function documents them (x (B,T,H,P); dt (B,T,H); A (H); B, C (B,T,G,N); D (H);
initial_states (B,H,P,N); seq_idx (B,T), the number of a token's document). What it cannot do is refused, never
approximated: float64, states in the middle, and resets together with an initial state, for which it does not document
what the first document sees. It does not keep this package's promise of float32 arithmetic: its tensor cores round
float32 inputs to 10 bits of fraction, and it exponentiates differences of running sums. Ask for backend="triton" where
that matters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import kernel, limits
from ..scan.scan_cuda import upstream
from .ssd_reference import SsdCall

# Its chunk has to be a power of two, and its matrix products need this many rows.
SMALLEST_CHUNK = 16
LARGEST_CHUNK = 256


@limits("ssd", "cuda")
def missing(*arguments: Any) -> str | None:
    """The feature of this call that mamba_ssm's SSD lacks, or None."""
    call = SsdCall(*arguments)
    if call.x.dtype == torch.float64:
        return "float64"
    if call.reset is not None and call.initial_state is not None:
        return "resets together with an initial state"
    if call.positions and call.positions != (call.x.shape[1] - 1,):
        return "states before the last"
    return None


@kernel("ssd", "cuda")
def ssd_cuda(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,H,P) and the state after the last step (B, 1, H, P, N) if `positions` asks for it; arguments as in `ssd`,
    without those that `missing` names."""
    x, delta, A, B, C, D, chunk, initial_state, reset, positions = SsdCall(*arguments)
    run = upstream("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined", "ssd")
    assert missing(*arguments) is None
    steps = min(LARGEST_CHUNK, max(SMALLEST_CHUNK, 1 << (chunk - 1).bit_length()))
    found = run(
        x,
        delta,
        A,
        B,
        C,
        steps,
        D=D,
        initial_states=initial_state,
        seq_idx=None if reset is None else reset.cumsum(1, dtype=torch.int32),
        return_final_states=bool(positions),
    )
    y, state = found if positions else (found, None)
    return y, None if state is None else state[:, None]
