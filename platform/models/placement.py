"""Where a model computes and in what numbers: devices and dtypes by their names, or one sentence that says what is
wrong with them."""

from __future__ import annotations

import torch

from ..core.errors import UsageError, suggest
from .precision import faster_dtype

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_named(device: str | torch.device | None) -> torch.device:
    """The device, the CPU by default; "auto" is the GPU where there is one. Raises UsageError for one that this machine
    has not."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"unknown device {device!r}; devices are named 'cpu', 'cuda', 'cuda:1', ...") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        why = "PyTorch finds no GPU" if torch.backends.cuda.is_built() else "this PyTorch is built without CUDA"
        raise UsageError(f"device {str(device)!r} cannot be used: {why}; leave device out to compute on the CPU")
    if found.type == "cuda" and found.index is not None and found.index >= torch.cuda.device_count():
        raise UsageError(f"device {str(device)!r} cannot be used: there are {torch.cuda.device_count()} GPUs, from 0")
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {str(device)!r} cannot be used by this PyTorch; 'cpu' can") from error
    return found


def dtype_named(dtype: torch.dtype | str | None, device: torch.device, d_model: int) -> torch.dtype:
    """The dtype, float32 by default; "auto" is what `faster_dtype` says. Raises UsageError for what weights cannot
    have."""
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return faster_dtype(device, d_model)[0]
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UsageError(f"unknown dtype {str(dtype)!r}; {suggest(str(dtype), ['auto', *DTYPES])}")
    return found
