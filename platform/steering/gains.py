"""Gains of the channels of one site, one for each channel, as logarithms: how they become edits and parts of a recipe,
and how they are fitted to the answers of development questions.

    x[t, c] -> exp(theta[c]) x[t, c]

In the logarithm a factor of 20 is three steps of 1, up and down are alike, and no gain changes sign. The fit is
gradient ascent on the answers' log-probability with steps that do not depend on the size of a derivative (Adam, Kingma
and Ba 2015), because a channel that was turned down has small ones, and a proximal step towards no change after each: a
channel whose derivatives do not agree between batches goes back to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..models import Edit, Scale
from .answered import Batch, bounded, score_batch
from .detectors import channels_of
from .part import Part

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..models.entering import Entry

#: bounds of a gain, and their logarithms
LOWEST_GAIN, HIGHEST_GAIN = 1 / 256, 256.0
LOW, HIGH = math.log(LOWEST_GAIN), math.log(HIGHEST_GAIN)
STEP, SHRINK = 0.3, 0.3  # of log gain per step; the share of it that goes back to the start
_FULL_STEPS = 0.5  # share of the steps that are whole; those after them shrink to nothing, so that the end is no jump
_DECAY, _SQUARES = 0.8, 0.95  # memory of the mean and of the squares of derivatives, in steps: few are taken


class Place(NamedTuple):
    """A site of one layer. site: what follows `blocks.{layer}.`; channels: how many it has."""

    site: str
    layer: int
    channels: int

    @property
    def name(self) -> str:
        """The full name of the site."""
        return f"blocks.{self.layer}.{self.site}"


def places(model: LanguageModel, sites: Sequence[str], layers: Sequence[int] | None = None) -> list[Place]:
    """Where channels can be scaled: each of `sites` in each of `layers` (None: all) that has it.

    Raises UsageError for a layer that does not exist, and where none of the layers has one of the sites.
    """
    wanted = range(model.n_layers) if layers is None else layers
    if wrong := [layer for layer in wanted if not 0 <= layer < model.n_layers]:
        raise UsageError(f"layer {wrong[0]} does not exist; {model.name} has layers 0 to {model.n_layers - 1}")
    found: list[Place] = []
    for site in sites:
        here = [Place(site, layer, n) for layer in wanted if (n := channels_of(model, f"blocks.{layer}.{site}"))]
        if not here:
            raise UsageError(f"no layer of {model.name} that is searched has channels at {site}; see model.sites()")
        found += here
    return found


@dataclass(frozen=True, eq=False)
class Gains:
    """log_gains (C,): of the channels of `place`, float64; 0 leaves a channel as it is."""

    place: Place
    log_gains: Tensor

    @property
    def channels(self) -> tuple[int, ...]:
        """Those that are changed, ascending."""
        return tuple(int(c) for c in self.log_gains.nonzero()[:, 0])

    def edits(self) -> list[Edit]:
        """What `model.edit` applies; none where nothing is changed."""
        if not self.channels:
            return []
        return [Scale(self.place.name, self.log_gains.exp()[list(self.channels)], channels=self.channels)]

    def part(self) -> Part:
        """As a part of a recipe: at strength 1 these gains, at 0 none. Raises UsageError where nothing is changed."""
        if not self.channels:
            raise UsageError(f"no channel of {self.place.name} is changed, so there is no part of a recipe to make")
        operator = "scale_delta" if self.place.site == "mixer.delta" else "scale_channels"
        gains = self.log_gains.exp()[list(self.channels)].double()
        return Part(
            operator, self.place.site, (self.place.layer,), 1.0, "share", channels=self.channels,
            tensors={"gains": gains},
        )  # fmt: skip


def common(place: Place, order: Sequence[int], signs: Tensor, count: int, size: float) -> Gains:
    """The first `count` channels of `order` by one factor: exp(size) where their sign (C,) is positive, its inverse
    where it is negative."""
    theta = torch.zeros(place.channels, dtype=torch.float64)
    chosen = list(order[:count])
    theta[chosen] = (size * signs[chosen].double()).clamp(LOW, HIGH)
    return Gains(place, theta)


def fit(
    model: LanguageModel,
    asked: Sequence[Batch],
    start: Gains,
    steps: int,
    *,
    step: float = STEP,
    shrink: float = SHRINK,
    within: Tensor | None = None,
    floored: bool = False,
    enter: Callable[[Batch], Entry | None] = lambda batch: None,
) -> Gains:
    """Gains from `steps` steps, one batch each, in turn, beginning at `start` and drawn towards no change.

    step: how far a log gain goes in one. shrink: the share of a step by which each returns towards 0, so that only
    those move whose derivatives agree. within (C,) bool: channels that may move; None for all. floored: go up in the
    bounded score of the answers instead of their log-probability. enter: where the pass over a batch begins, as in
    `forward`. Edits in force count as part of the model, and are to hold no parameter that needs a gradient. Where no
    row of a batch has finite scores or derivatives the step is left out.
    """
    theta = start.log_gains.clone()
    mean, squares, taken = torch.zeros_like(theta), torch.zeros_like(theta), 0
    for i in range(steps):
        batch = asked[i % len(asked)]
        gradient = _gradient(model, batch, start.place, theta, floored, enter(batch))
        if gradient is None:
            continue
        taken += 1
        mean = _DECAY * mean + (1 - _DECAY) * gradient
        squares = _SQUARES * squares + (1 - _SQUARES) * gradient**2
        length = step * min(1.0, (1 - i / steps) / (1 - _FULL_STEPS))
        size = (squares / (1 - _SQUARES**taken)).sqrt() + 1e-8
        moved = theta + length * (mean / (1 - _DECAY**taken)) / size
        pulled = ((moved.abs() - shrink * length).clamp(min=0) * moved.sign()).clamp(LOW, HIGH)
        theta = pulled if within is None else torch.where(within, pulled, theta)
    return Gains(start.place, theta)


@torch.enable_grad()
def _gradient(
    model: LanguageModel, batch: Batch, place: Place, theta: Tensor, floored: bool, enter: Entry | None
) -> Tensor | None:
    """Of the mean log-probability of the batch's answers by theta (C,); None where nothing is finite."""
    leaf = theta.clone().to(model.device).requires_grad_(True)
    scored = score_batch(model, batch, [Scale(place.name, leaf.exp())], enter)
    if not bool(scored.finite.any()):
        return None
    value = bounded(scored.logprob) if floored else scored.logprob
    said = torch.where(scored.finite, value, 0.0).sum() / int(scored.finite.sum())
    gradient = torch.autograd.grad(said, leaf)[0].cpu()
    return gradient if bool(torch.isfinite(gradient).all()) else None


@contextmanager
def frozen(model: LanguageModel) -> Generator[None]:
    """The weights need no gradient inside the block: derivatives by gains of a late layer then cost that layer on."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
