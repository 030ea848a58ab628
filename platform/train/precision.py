"""Choice of device, threads and arithmetic, with the reason in words.

Training keeps weights, gradients and the recurrent scan in float32; bfloat16 is autocast for the matrix products.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ..core.errors import UsageError
from ..models.precision import faster_dtype


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


def choose_precision(dtype: str, device: torch.device, d_model: int) -> Precision:
    """Resolve `auto`, `float32` or `bfloat16` for a device and a model width."""
    if dtype != "auto":
        return Precision(dtype == "bfloat16", device.type, "as configured")
    chosen, reason = faster_dtype(device, d_model)
    return Precision(chosen == torch.bfloat16, device.type, reason)


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
