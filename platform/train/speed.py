"""How fast a run is and what it needs: tokens a second, memory, time left, and the use of a GPU's arithmetic.

Model FLOP/s utilisation (Chowdhery et al., arXiv 2204.02311) counts what a model asks for, once:

    a token's FLOPs = 6 N + 27 S

N: parameters that a token passes through in matrix products: all but idle experts and a table of embeddings that is not
the head. S: numbers in the recurrent states of all layers; a step of the scan is 9 operations on each (decay: product
and exponential; write: two products; sum; read-out: product and sum; skip), its way back twice as many. Attention and
long convolutions are left out, so that models with these are shown lower than they are.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from ..models import LanguageModel

_SCAN = 27  # operations on a number of the state, forwards and backwards
#: dense operations a second in bfloat16 and in float32 with TF32 off, from the makers' data sheets
_PEAKS: dict[str, tuple[float, float]] = {
    "H200": (989e12, 67e12),
    "H100 80GB HBM3": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "RTX 4090": (165e12, 82.6e12),
    "V100": (0.0, 15.7e12),  # no bfloat16
}


class Speed(NamedTuple):
    """Of one step. peak_memory: bytes, the most the process held so far; gpu_peak_memory, mfu: None without a GPU; mfu
    also where it is one whose peak is not known here."""

    tokens_per_second: float
    seconds_left: float
    peak_memory: int
    gpu_peak_memory: int | None
    mfu: float | None


class Meter:
    """Measures steps from its making on."""

    def __init__(self, model: LanguageModel, autocast: bool) -> None:
        self._device = model.device
        self._flops = flops_per_token(model)
        self._peak = peak_flops(model.device, autocast)
        self._began = time.perf_counter()
        self._steps = 0

    def measured(self, tokens: int, seconds: float, steps_left: int) -> Speed:
        """A step over `tokens` that took `seconds`. Time left: as all steps so far, with what was done between them."""
        self._steps += 1
        rate = tokens / seconds
        on_gpu = self._device.type == "cuda"
        return Speed(
            tokens_per_second=round(rate, 1),
            seconds_left=round(steps_left * (time.perf_counter() - self._began) / self._steps, 1),
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            gpu_peak_memory=torch.cuda.max_memory_allocated(self._device) if on_gpu else None,
            mfu=None if self._peak is None else round(self._flops * rate / self._peak, 4),
        )


def flops_per_token(model: LanguageModel) -> int:
    """Operations of one token in training; see the module."""
    table = 0 if model.config.tie_embeddings else model.embedding.weight.numel()
    states = [block.zero_state(1, model.dtype, model.device) for block in model.blocks]
    state = sum(part.numel() for parts in states for name, part in parts.items() if name.rpartition(".")[2] == "h")
    return 6 * (model.n_active_parameters - table) + _SCAN * state


def peak_flops(device: torch.device, autocast: bool) -> float | None:
    """Operations a second that `device` can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = next((peaks for part, peaks in _PEAKS.items() if part in name), None)
    return None if known is None else known[0 if autocast else 1] or None
