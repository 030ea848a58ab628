"""The k largest latents of each token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Frozen, Options, Parameters, SaeKind, sae_kind


def largest(z: Tensor, k: int) -> Tensor:
    """z (..., F) where it is above 0 and among the k largest of its row, else 0."""
    top = z.topk(min(k, z.shape[-1]), -1, sorted=False)
    return torch.zeros_like(z).scatter(-1, top.indices, top.values.relu())


@sae_kind("topk")
class TopK(SaeKind):
    """The k largest latents of each token: their number is exact, and a feature depends on the others."""

    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        return largest(z, options.k)

    def frozen(self, z: Tensor, parameters: Parameters, options: Options) -> Frozen:
        return Frozen(k=min(options.k, options.n_latents))
