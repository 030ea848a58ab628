"""ReLU latents under an L1 penalty (Bricken et al. 2023, Towards monosemanticity)."""

from __future__ import annotations

from torch import Tensor

from . import Options, Parameters, SaeKind, sae_kind


@sae_kind("relu")
class Relu(SaeKind):
    """Latents above 0, their sum penalised: sparse, and all of them too small."""

    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        return z.relu()

    def penalty(self, z: Tensor, codes: Tensor, parameters: Parameters, options: Options) -> Tensor:
        """Rows of W_dec have unit norm, so that a latent cannot be made small by making its row large."""
        width = parameters["W_dec"].shape[1]
        return options.l1 * codes.sum(1).mean() / width**0.5
