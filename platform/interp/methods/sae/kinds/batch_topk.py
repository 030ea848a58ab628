"""The k largest latents a token on average over a batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Frozen, Options, Parameters, SaeKind, sae_kind


def batch_largest(z: Tensor, k: int) -> Tensor:
    """z (B, F) where it is above 0 and among the B k largest of the batch, else 0."""
    return torch.where(z >= lowest_of_largest(z, k), z, 0.0)


def lowest_of_largest(z: Tensor, k: int) -> Tensor:
    """The smallest of the n k largest positive values of z (n, F), a number; where fewer are positive, the smallest of
    these, and 1 where none is."""
    positive = z.detach().relu().flatten()
    top = positive.topk(min(k * len(z), positive.numel()), sorted=False).values
    return torch.where(top > 0, top, torch.inf).min().nan_to_num(posinf=1.0)


@sae_kind("batch_topk")
class BatchTopK(SaeKind):
    """The largest latents of a batch, k a token on average; alone, those above the threshold that gives as many."""

    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        return batch_largest(z, options.k)

    def frozen(self, z: Tensor, parameters: Parameters, options: Options) -> Frozen:
        """One threshold for all latents, under which k a token are active over all the tokens of z."""
        lowest = lowest_of_largest(z, options.k)
        below = torch.nextafter(lowest, torch.zeros_like(lowest))  # the lowest itself is above it
        return Frozen(threshold=below.expand(options.n_latents).clone())
