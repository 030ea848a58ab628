"""Falcon Mamba (Zuo et al., arXiv 2410.05355): Mamba with RMSNorms, without weights, on Delta's input, B and C.

    dt, B, C = norm(dt), norm(B), norm(C)   with   norm(v) = v / sqrt(mean(v^2) + mixer_rms_eps)

The norms keep the recurrence of a large model stable; everything else, and every parameter, is Mamba's (section 3.1 of
the paper).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ....core.errors import UsageError
from ...config_checks import EPSILON, accepted
from ...mixer import Options, mixer
from ...parts.norms import wide
from .mamba import MambaMixer


@dataclass(frozen=True)
class FalconMambaOptions(Options):
    """mixer_rms_eps: epsilon of the norms of Delta's input, B and C."""

    mixer_rms_eps: float = 1e-6

    def __post_init__(self) -> None:
        accepted(EPSILON, "mixer_rms_eps", self.mixer_rms_eps, "model config", UsageError)


@mixer("falcon_mamba")
class FalconMambaMixer(MambaMixer):
    """S6 mixer with normed dt, B and C; shapes and sites as in `MambaMixer`, where B and C are shown after the norm."""

    options_class: ClassVar[type[Options]] = FalconMambaOptions
    hf_class = "FalconMambaForCausalLM"

    def time_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eps = self.config.own.mixer_rms_eps
        dt, B, C = super().time_inputs(x)
        return _normed(dt, eps), _normed(B, eps), _normed(C, eps)


def _normed(v: Tensor, eps: float) -> Tensor:
    """v / sqrt(mean(v^2) + eps) over the last axis, computed in float32 (float64 for float64 input)."""
    return F.rms_norm(v.to(wide(v.dtype)), v.shape[-1:], None, eps).to(v.dtype)
