"""Latents with a threshold each, trained through steps (Rajamanoharan et al. 2024, arXiv 2407.14435).

The derivative of a step is taken as that of its average over a band around the threshold: with theta the threshold, e
the bandwidth and K = 1 within half a band of it, else 0,

    d JumpReLU / d theta = -(theta / e) K((z - theta) / e)         d H(z - theta) / d theta = -(1 / e) K(...)

The number of active latents is held at k by (L0 / k - 1)^2 (their appendix on a target L0), whose slope goes to z as
well as to theta: latents that are not needed leave the band.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import Frozen, Options, Parameters, SaeKind, sae_kind

START = 0.5  # of the thresholds, in standard deviations of an input channel


def jumped(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """z above its threshold, else 0; slopes as above."""
    slope = -threshold.detach() / bandwidth * _band(z, threshold, bandwidth)
    return torch.where(z > threshold, z, 0.0) + slope * (threshold - threshold.detach())


def step(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 above the threshold, else 0; slopes as above."""
    slope = _band(z, threshold, bandwidth) / bandwidth
    return (z > threshold).to(z.dtype) + slope * ((z - z.detach()) - (threshold - threshold.detach()))


def _band(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((z - threshold).detach().abs() < bandwidth / 2).to(z.dtype)


@sae_kind("jumprelu")
class JumpRelu(SaeKind):
    """Latents above a learnt threshold of their own, at full size; their number is held at k on average."""

    def start(self, options: Options, like: Tensor) -> dict[str, Tensor]:
        return {"log_threshold": torch.full((options.n_latents,), START, dtype=like.dtype, device=like.device).log()}

    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        return jumped(z, parameters["log_threshold"].exp(), options.bandwidth)

    def penalty(self, z: Tensor, codes: Tensor, parameters: Parameters, options: Options) -> Tensor:
        active = step(z, parameters["log_threshold"].exp(), options.bandwidth)
        return (active.sum(1).mean() / options.k - 1) ** 2

    def frozen(self, z: Tensor, parameters: Parameters, options: Options) -> Frozen:
        return Frozen(threshold=parameters["log_threshold"].exp())
