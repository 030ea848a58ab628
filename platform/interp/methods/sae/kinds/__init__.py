"""Kinds of sparse autoencoders: how latents compete, and what of that is left when one token stands alone. A file each.

    @sae_kind("relu")
    class Relu(SaeKind):
        def codes(self, z, parameters, options): return z.relu()

All share encoder and decoder (`..training`): with z = (x - b_dec) W_enc + b_enc the latents are f = codes(z) and the
reconstruction f W_dec + b_dec, rows of W_dec of unit norm. Inputs come centred and with a mean square of 1 a channel.
A kind is functions of its arguments, without a state of its own. A subclass is one instance in the registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .....core.registry import Registry

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Options:
    """What autoencoders are made with.

    n_latents F. k: latents that are to be active at a token, on average or exactly; what relu has instead is l1, the
    weight of sum f / sqrt(C) beside the squared error per channel. bandwidth: jumprelu's, see there. nested: shares of
    the latents that must reconstruct alone (matryoshka), ascending, the last 1.
    """

    n_latents: int
    k: int = 16
    l1: float = 0.05
    bandwidth: float = 1.0
    nested: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)


class Frozen(NamedTuple):
    """How a trained autoencoder chooses latents of one token: z above a threshold (F,), or the k largest; neither is
    relu."""

    threshold: Tensor | None = None
    k: int | None = None


class SaeKind(ABC):
    """Base of the kinds. meaning: the first line of its docstring."""

    name: str = ""

    def start(self, options: Options, like: Tensor) -> dict[str, Tensor]:
        """Further parameters, at their start; `like`: W_dec (F, C), for dtype and device."""
        return {}

    @abstractmethod
    def codes(self, z: Tensor, parameters: Parameters, options: Options) -> Tensor:
        """Latents f (B, F) >= 0 of pre-activations z (B, F) while it is trained."""

    def penalty(self, z: Tensor, codes: Tensor, parameters: Parameters, options: Options) -> Tensor:
        """What is added to the squared error per channel for sparsity; a number."""
        return z.new_zeros(())

    def prefixes(self, options: Options) -> tuple[int, ...]:
        """Numbers of first latents that have to reconstruct without the others, ascending, the last all of them."""
        return (options.n_latents,)

    def frozen(self, z: Tensor, parameters: Parameters, options: Options) -> Frozen:
        """How it is used from now on; z (n, F): pre-activations of many tokens."""
        return Frozen()


SAE_KINDS: Registry[SaeKind] = Registry("kind of sparse autoencoder", "sae_kind", f"{__name__}.kinds")
sae_kind = SAE_KINDS.instance
