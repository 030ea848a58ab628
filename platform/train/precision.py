"""Choice of device, threads and arithmetic, with the reason in words.

bfloat16 autocast pays where matrix units exist and the model is wide. Forward and backward of one layer on one AMX core
(256 tokens, 2 rows, processor seconds float32 / bfloat16): d_model 128 0.022 / 0.017 (Mamba), 0.022 / 0.021 (Mamba-2);
512 0.101 / 0.058, 0.098 / 0.071; 768 0.161 / 0.103, 0.181 / 0.118. Below 512 the gain is not worth the rounding.
Weights, gradients and the recurrent scan stay float32 either way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ..errors import UsageError

WIDE_ENOUGH = 512  # d_model from which `auto` takes bfloat16


@dataclass(frozen=True)
class Precision:
    """How the forward pass computes: whether under bfloat16 autocast, and why."""

    autocast: bool
    device_type: str
    reason: str

    def context(self) -> AbstractContextManager[object]:
        """Context of a forward pass."""
        return torch.autocast(self.device_type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    @property
    def name(self) -> str:
        return "bfloat16" if self.autocast else "float32"


def _bfloat16_units(device: torch.device) -> str | None:
    """Name of the hardware that makes bfloat16 fast, or None."""
    if device.type == "cuda":
        return "the GPU" if torch.cuda.is_bf16_supported() else None
    if device.type != "cpu":
        return None
    capabilities = torch.cpu.get_capabilities()
    return next(
        (label for key, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if capabilities.get(key)), None
    )


def choose_precision(dtype: str, device: torch.device, d_model: int) -> Precision:
    """Resolve `auto`, `float32` or `bfloat16` for a device and a model width."""
    if dtype != "auto":
        return Precision(dtype == "bfloat16", device.type, "as configured")
    units = _bfloat16_units(device)
    if units is None:
        return Precision(False, device.type, "no bfloat16 units here")
    if d_model < WIDE_ENOUGH:
        return Precision(False, device.type, f"d_model {d_model} is below {WIDE_ENOUGH}, where the gain is small")
    return Precision(True, device.type, f"{units} multiplies bfloat16 and d_model {d_model} is at least {WIDE_ENOUGH}")


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UsageError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not a torch device; valid: auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"device {name!r} is not here: torch sees {torch.cuda.device_count()} GPUs; use device=cpu or auto"
        )
    return device


def set_threads(threads: int | str) -> int:
    """Set torch's CPU threads (`auto` leaves torch's choice) and return how many it uses."""
    if threads != "auto":
        torch.set_num_threads(int(threads))
    return torch.get_num_threads()
