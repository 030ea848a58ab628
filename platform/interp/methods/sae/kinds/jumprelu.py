"""Latents with a threshold each, trained through steps (Rajamanoharan et al. 2024, arXiv 2407.14435).

The derivative of a step is taken as that of its average over a band around the threshold: with theta the threshold, e
the bandwidth and K = 1 within half a band of it, else 0,

    d JumpReLU / d theta = -(theta / e) K((z - theta) / e)         d H(z - theta) / d theta = -(1 / e) K(...)

The number of active latents is held at k by (L0 / k - 1)^2 (their appendix on a target L0), whose slope goes to z as
well as to theta: latents that are not needed leave the band.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import Frozen, Options, Parameters, SaeKind, sae_kind

START = 0.5  # of the thresholds, in standard deviations of an input channel


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        z, threshold = ctx.saved_tensors
        near = _band(z, threshold, ctx.bandwidth)
        return torch.where(z > threshold, grad, 0.0), -(threshold / ctx.bandwidth * near * grad).sum(0), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        z, threshold = ctx.saved_tensors
        slope = _band(z, threshold, ctx.bandwidth) * grad / ctx.bandwidth
        return slope, -slope.sum(0), None


def _band(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((z - threshold).abs() < bandwidth / 2).to(z.dtype)


@sae_kind("jumprelu")
class JumpRelu(SaeKind):
    """Latents above a learnt threshold of their own, at full size; their number is held at k on average."""

    def start(self, options: Options, like: Tensor) -> dict[str, Tensor]:
        return {"log_threshold": torch.full((options.n_latents,), START, dtype=like.dtype, device=like.device).log()}

    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        jumped: Any = _Jump.apply(z, parameters["log_threshold"].exp(), options.bandwidth)
        return jumped

    def penalty(self, z: Tensor, codes: Tensor, parameters: Parameters, options: Options) -> Tensor:
        active: Any = _Step.apply(z, parameters["log_threshold"].exp(), options.bandwidth)
        return (active.sum(1).mean() / options.k - 1) ** 2

    def frozen(self, z: Tensor, parameters: Parameters, options: Options) -> Frozen:
        return Frozen(threshold=parameters["log_threshold"].exp())
