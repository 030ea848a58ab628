"""Norms, computed in float32 (float64 for float64 input) and rounded once, to the dtype of their weights.

So a float32 residual stream beside bfloat16 weights is read unrounded, as the fused kernels of the reference code do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import compiled_steps


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums and recurrences over `dtype` values are kept: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class RMSNorm(nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps) over the last axis, or over `groups` equal parts of it."""

    def __init__(self, width: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.groups = groups

    @torch.no_grad()
    def reset(self) -> None:
        """Weights 1."""
        self.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3 and x.dtype == self.weight.dtype:
            loops = compiled_steps(x, x.shape[-1] // self.groups)
            if loops is not None:  # a decode step, where five small operations take longer than the projections
                return loops.norm_step_numba(x, self.weight, self.eps, self.groups)
        wide_x = x.to(wide(x.dtype))
        if self.groups == 1 and self.weight.dtype == wide_x.dtype:
            return F.rms_norm(wide_x, self.weight.shape, self.weight, self.eps)
        parts = wide_x.unflatten(-1, (self.groups, -1)) if self.groups > 1 else wide_x
        parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)
        normed = parts.flatten(-2) if self.groups > 1 else parts
        return (self.weight.to(normed.dtype) * normed).to(self.weight.dtype)


class RootEpsNorm(RMSNorm):
    """y = weight * x / (sqrt(mean(x^2)) + eps) over the last axis: eps is added after the root. Small inputs come out
    larger than from `RMSNorm`, with eps 1e-5 and sqrt(mean(x^2)) = 0.01 by 5%."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        wide_x = x.to(wide(x.dtype))
        # The norm has a derivative where x is zero, the root of a mean has none.
        size = torch.linalg.vector_norm(wide_x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        normed = wide_x / (size + self.eps)
        return (self.weight.to(normed.dtype) * normed).to(self.weight.dtype)


class LayerNorm(nn.Module):
    """y = weight * (x - mean(x)) / sqrt(var(x) + eps) + bias over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    @torch.no_grad()
    def reset(self) -> None:
        """Weights 1, biases 0."""
        self.weight.fill_(1.0)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        dtype = wide(x.dtype)
        normed = F.layer_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)
        return normed.to(self.weight.dtype)
