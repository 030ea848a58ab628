"""How fast each layer's recurrence forgets: its eigenvalues, and half-lives, survival and horizons in tokens.

A selective recurrence (Mamba, Mamba-2 and their relatives) multiplies a state coordinate by exp(Delta_t A) at token t,
with A < 0 learned and Delta_t chosen by the token. A modal filter (StripedHyena) multiplies it by lambda at every
token: that is A = log lambda, complex, with Delta = 1. So one form holds for all:

    S(t, k) = exp(-|Re A| * sum of the last k Deltas)          what is left after k tokens of what was written before
    half-life = ln 2 / (Delta |Re A|)    time constant = 1 / (Delta |Re A|)    horizon at theta = max k with S >= theta

Pure functions of tensors, in float64. U units with a Delta of their own (Mamba: channels; Mamba-2: heads), M
eigenvalues for each (Mamba: N; Mamba-2: 1, shared by all coordinates of the head's state).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.families.mamba.mamba import MambaMixer
from ...models.families.mamba2.mamba2 import Mamba2Mixer
from ...models.families.stable_mamba.stable_mamba import StableMambaMixer
from ...models.families.striped_hyena.striped_hyena import HyenaLayer

if TYPE_CHECKING:
    from ...models import LanguageModel

_ROUNDING = 1e-12  # a decay to exactly theta reaches theta, whatever the last bit of the logarithm says


@dataclass(frozen=True)
class Decay:
    """The decays of one recurrence. layer: its block; site: where it stands in it, "mixer" or "mixer.stable".

    kind: "selective" (a token writes Delta B x), "averaging" (Stable-Mamba: (1 - exp(-Delta)) B x) or "modal" (B = 1).
    A (U, M) complex128: eigenvalues of the continuous system, per unit of Delta. groups: how many B and C there are;
    units of a group stand side by side. 0 for a modal filter, which has none.
    """

    layer: int
    site: str
    kind: str
    A: Tensor
    groups: int

    @property
    def rate(self) -> Tensor:
        """|Re A| (U, M)."""
        return self.A.real.abs()

    def name(self, quantity: str) -> str:
        """Full name of a site of this recurrence, such as `delta`."""
        return f"blocks.{self.layer}.{self.site}.{quantity}"

    @property
    def delta(self) -> str | None:
        """`delta` relative to its block; None for a modal filter."""
        return None if self.kind == "modal" else f"{self.site}.delta"

    def written(self, delta: Tensor) -> Tensor:
        """The factor that Delta is on what a token writes."""
        return -torch.expm1(-delta) if self.kind == "averaging" else delta


def decays_of(model: LanguageModel, layer: int) -> list[Decay]:
    """The recurrences of block `layer`: none (attention, an MLP, an implicit filter), one, or two."""
    mixer: Any = getattr(model.blocks[layer], "mixer", None)
    found = _decay(mixer, layer, "mixer")
    added = getattr(mixer, "stable", None)
    return [d for d in (found, _decay(added, layer, "mixer.stable")) if d is not None]


@torch.no_grad()
def _decay(mixer: Any, layer: int, site: str) -> Decay | None:
    if isinstance(mixer, StableMambaMixer):  # its Delta is -log of the decay itself
        return Decay(layer, site, "averaging", _complex(-torch.ones(len(mixer.D), 1)), 1)
    if isinstance(mixer, Mamba2Mixer):
        return Decay(layer, site, "selective", _complex(-mixer.A_log.double().exp()[:, None]), mixer.config.n_groups)
    if isinstance(mixer, MambaMixer):
        return Decay(layer, site, "selective", _complex(-mixer.A_log.double().exp()), 1)
    if isinstance(mixer, HyenaLayer):
        rate, angle = mixer.filter.log_decay.double().exp(), mixer.filter.angle.double()
        return Decay(layer, site, "modal", torch.complex(-rate, angle).cpu(), 0)
    return None


def _complex(A: Tensor) -> Tensor:
    return A.detach().cpu().to(torch.complex128)


def half_life(rate: Tensor, delta: Tensor | float = 1.0) -> Tensor:
    """ln 2 / (Delta |A|) in tokens; infinite where nothing decays. rate (U, M); delta: a number, or (U,)."""
    return math.log(2.0) * time_constant(rate, delta)


def time_constant(rate: Tensor, delta: Tensor | float = 1.0) -> Tensor:
    """1 / (Delta |A|) in tokens, after which 1/e is left; with Delta = 1 that of A alone. See `half_life`."""
    step = torch.as_tensor(delta, dtype=torch.float64)
    return 1.0 / (rate.double() * (step[:, None] if step.ndim else step))


def survival(rate: Tensor, delta: Tensor) -> Tensor:
    """S (k + 1, U, M) after 0, 1, ..., k tokens, the latest of which is the last row of delta (k, U).

    So S[j] is the share that the last j tokens leave of what the state held before them.
    """
    total = torch.cat([delta.new_zeros(1, delta.shape[1]), delta.flip(0).cumsum(0)]).double()
    return torch.exp(-total[..., None] * rate.double())


def horizon(rate: Tensor, delta: Tensor, theta: float) -> Tensor:
    """max k with S(t, k) >= theta, as (U, M) integers, at the last token of delta (T, U).

    At most T: the text has no more tokens to forget in, and a slower coordinate's horizon is at least that.
    Raises UsageError for a theta that is not strictly between 0 and 1.
    """
    if not 0.0 < theta < 1.0:
        raise UsageError(f"theta is the share that must be left, strictly between 0 and 1, not {theta}")
    total = delta.double().flip(0).cumsum(0).T.contiguous()  # (U, T), ascending
    bound = -math.log(theta) / rate.double() * (1.0 + _ROUNDING)
    return torch.searchsorted(total, bound.contiguous(), right=True)
