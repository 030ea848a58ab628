"""The selective scan of the package mamba_ssm, on an NVIDIA GPU: a wrapper that changes the layout and nothing else.

Promises: the arguments as `mamba_ssm.ops.selective_scan_interface.selective_scan_fn` documents them (u, delta (B,E,T);
A (E,N); B, C (B,N,T); D (E)). What that function cannot do is refused, never approximated: it has no initial state and
no resets, gives the last state alone, and without a gradient, and computes in float32.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ....core.errors import UsageError
from ..backend import kernel, limits
from .scan_reference import ScanCall

# The size of the state that mamba_ssm's kernels are compiled for, at most.
LARGEST_STATE = 256


def upstream(module: str, name: str, operation: str) -> Any:
    """The function `name` of another package's module; UsageError where the package is there but does not load, as when
    it was built for another torch."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, OSError, AttributeError) as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"{operation}: {package} is installed but {module}.{name} cannot be loaded ({error}); reinstall {package} "
            "for this torch, or use backend='triton'"
        ) from error


@limits("scan", "cuda")
def missing(*arguments: Any) -> str | None:
    """The feature of this call that mamba_ssm's scan lacks, or None."""
    x, delta, A, B, C, D, initial_state, reset, positions = ScanCall(*arguments)
    if x.dtype == torch.float64:
        return "float64"
    if initial_state is not None:
        return "an initial state"
    if reset is not None:
        return "resets"
    if C.ndim != 3:
        return "several read-outs"
    if positions and positions != (x.shape[1] - 1,):
        return "states before the last"
    inputs = (x, delta, A, B, C, D)
    if positions and torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in inputs):
        return "the gradient of a state"
    if A.shape[1] > LARGEST_STATE:
        return f"more than {LARGEST_STATE} states"
    return None


@kernel("scan", "cuda")
def scan_cuda(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """y (B,T,E) and the state after the last step (B, 1, E, N) if `positions` asks for it; arguments as in
    `selective_scan`, without those that `missing` names."""
    x, delta, A, B, C, D, _, _, positions = ScanCall(*arguments)
    run = upstream("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", "scan")
    assert missing(*arguments) is None
    u, dt, B_t, C_t = (tensor.transpose(1, 2).contiguous() for tensor in (x, delta, B, C))
    found = run(u, dt, A.contiguous(), B_t, C_t, D, return_last_state=bool(positions))
    y, state = found if positions else (found, None)
    return y.transpose(1, 2).contiguous(), None if state is None else state[:, None]
