"""Recipes of one part, as most tests want them."""

from __future__ import annotations

from mplat.models import LanguageModel
from mplat.steering import Part, Recipe


def scaled(
    model: LanguageModel | str, channels=(0, 1), strength=2.0, layer=1, *, site="mixer_out", operator="scale_channels",
    **more,
) -> Recipe:  # fmt: skip
    """Channels of one site of one layer times `strength`. model: or its digest."""
    digest = model if isinstance(model, str) else model.digest
    return Recipe((Part(operator, site, (layer,), strength, channels=tuple(channels), **more),), digest, "some")
