"""The recipe of arXiv 2602.22719 as a rule, for any model: what it reports as steering a bottleneck.

At one layer, 83 % deep, the 16 channels of the mixer's output whose ablation costs most are scaled by what that costs:
above 2 % by 5, neutral ones (within 2 % either way) by 2, those whose ablation helps by 1; and all step sizes of that
layer by 1.5, where it has any. The publication names 16 channels of one model and this rule for why they were chosen;
numbers of channels mean nothing in another model, so here the costs are measured on the model at hand. Which channels
beyond the 16 its neutral class takes in is not said; here none, which keeps the recipe as small as the published one.

Its gains are disputed, and nothing here claims any: it is a baseline by name (`--steering mamba2:source`), judged as
every other recipe is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.errors import InputError
from .part import Part
from .recipe import Recipe, site_width

if TYPE_CHECKING:
    from ..models import LanguageModel

SITE = "mixer_out"
DEPTH = 0.8334
N_CHANNELS = 16
COSTLY = 0.02
FACTORS = {"costly": 5.0, "neutral": 2.0}
DELTA_FACTOR = 1.5

#: sites by which a block is one of those the rule was stated for: it recurs, or convolves over the whole text
_REMEMBERS = ("mixer.delta", "mixer.long_conv_out")


def source_layer(model: LanguageModel) -> int:
    """The block 83 % deep; in a hybrid the nearest to that depth which recurs or has a long convolution."""
    there = {site.name for site in model.sites()}
    having = [i for i in range(model.n_layers) if any(f"blocks.{i}.{site}" in there for site in _REMEMBERS)]
    wanted = min(model.n_layers - 1, int(DEPTH * model.n_layers + 1e-9))
    return min(having or range(model.n_layers), key=lambda layer: (abs(layer - wanted), layer))


def source_site(model: LanguageModel) -> str:
    """The full name of the site whose channels have to be ablated one by one to know their costs."""
    return f"blocks.{source_layer(model)}.{SITE}"


def source_recipe(model: LanguageModel, measured_impacts: Tensor | Sequence[float], name: str = "source") -> Recipe:
    """The recipe for `model`.

    measured_impacts (C,): what setting each channel of `source_site(model)` to zero costs, as a relative rise of the
    loss on development questions: 0.02 is two per cent, below 0 it helps. Channels of equal cost count in their order.
    Raises InputError where the impacts are not one finite number for each channel.
    """
    site = source_site(model)
    costs = torch.as_tensor(measured_impacts, dtype=torch.float64).flatten()
    width = site_width(model, site)
    if width != len(costs) or not bool(torch.isfinite(costs).all()):
        raise InputError(f"the source rule needs one finite cost for each of the {width} channels of {site}")
    layer = source_layer(model)
    costliest = costs.argsort(descending=True, stable=True)[:N_CHANNELS]
    parts = [
        Part("scale_channels", SITE, (layer,), factor, channels=tuple(sorted(map(int, chosen))))
        for factor, chosen in (
            (FACTORS["costly"], costliest[costs[costliest] > COSTLY]),
            (FACTORS["neutral"], costliest[costs[costliest].abs() <= COSTLY]),
        )
        if len(chosen)
    ]
    if site_width(model, f"blocks.{layer}.mixer.delta") is not None:
        parts.append(Part("scale_delta", "mixer.delta", (layer,), DELTA_FACTOR))
    return Recipe(tuple(parts), model.digest, name)
