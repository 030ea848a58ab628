"""Controls of equal size: how much a part changes what is there, and the same amount on other channels.

The change of activations by gains g on channels c is sum_c (g_c - 1)^2 E[x_c^2] per token. Channels that are quieter or
louder than the recipe's own get gains whose distance from 1 is scaled, all by one number, so that this sum is equal;
without that, loud channels would be destroyed by factors that quiet ones bear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..part import Part
from ..recipe import Recipe
from . import Activity

_STEPS = 100  # towards an equal change, where some factors are held at the lowest strength


def gains_of(part: Part) -> Tensor:
    """(n,) float64: what each channel of a scaling part is multiplied by, at its strength."""
    n = len(part.channels or ())
    if "gains" in part.tensors:
        return 1.0 + part.strength * (part.tensors["gains"].double() - 1.0)
    return torch.full((n,), float(part.strength), dtype=torch.float64)


def scales(part: Part) -> bool:
    """Whether the part multiplies channels that it names, by a factor or by gains."""
    return part.channels is not None and "gains?" in part.of.tensors


def power(activity: Activity, channels: tuple[int, ...]) -> Tensor:
    """(n,): mean square of each channel."""
    return (activity.mean**2 + activity.variance)[list(channels)]


def moved(part: Part, channels: tuple[int, ...], activity: Activity | None) -> Part | None:
    """`part` on other channels, its change of activations kept where `activity` is known; None where these channels are
    silent, so that nothing equal can be done there.

    Factors stay at or above the operator's lowest strength; where that stops some of them, the others go further, as
    far as they can.
    """
    if activity is None or not scales(part):
        return dataclasses.replace(part, channels=channels)
    gains = gains_of(part)
    wanted = change(gains, power(activity, part.channels or ()))
    matched = _matched(gains, power(activity, channels), wanted, part.of.low)
    if matched is None:
        return None
    return dataclasses.replace(part, channels=channels, strength=1.0, unit="share", tensors={"gains": matched})


def change(gains: Tensor, of: Tensor) -> float:
    """By how much gains (n,) change channels of mean square `of` (n,), squared, per token."""
    return float(((gains - 1.0) ** 2 * of).sum())


def _matched(gains: Tensor, there: Tensor, wanted: float, low: float) -> Tensor | None:
    """Gains of at least `low` whose distances from 1 are those of `gains` times one number, so that they change
    channels of mean square `there` by `wanted`; None where they change nothing at all, though they should."""
    unmatched = change(gains, there)
    if unmatched <= 0.0:
        return None if wanted > 0.0 else gains
    size = (wanted / unmatched) ** 0.5
    matched = gains
    for _ in range(_STEPS):
        matched = (1.0 + size * (gains - 1.0)).clamp(min=low)
        here = change(matched, there)
        if here >= wanted * (1 - 1e-9):
            break
        size *= (wanted / here) ** 0.5  # some are held at `low`, and the others have to make up for it
    return matched


def silent(part: Part) -> str:
    """Why a part cannot be moved to channels of which `moved` says None."""
    return f"the other channels of {part.full_sites()[0]} carry nothing, so nothing equal can be done there"


def choosing(recipe: Recipe) -> list[int]:
    """Which parts choose channels, for which others can stand in."""
    return [i for i, part in enumerate(recipe.parts) if part.channels is not None and part.of.acts_on == "channels"]


NO_CHANNELS = "the recipe chooses no channels, so others cannot stand in for them"


def at_its_sites(recipe: Recipe, chosen: Sequence[int], i: int) -> list[int]:
    """Those of the `chosen` parts that share a site with part i, itself among them: their channels are one recipe's."""
    sites = set(recipe.parts[i].full_sites())
    return [j for j in chosen if sites & set(recipe.parts[j].full_sites())]


def channels_of(parts: Sequence[Part], which: Sequence[int]) -> set[int]:
    """All channels that these parts act on."""
    return {channel for i in which for channel in parts[i].channels or ()}
