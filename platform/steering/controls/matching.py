"""Controls of equal size: how much a part changes what is there, and the same amount on other channels.

The change of activations by gains g on channels c is sum_c (g_c - 1)^2 E[x_c^2] per token. Channels that are quieter or
louder than the recipe's own get gains whose distance from 1 is scaled, all by one number, so that this sum is equal;
without that, loud channels would be destroyed by factors that quiet ones bear.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...core.errors import UsageError
from ..part import Part
from . import Activity


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


def moved(part: Part, channels: tuple[int, ...], activity: Activity | None) -> Part:
    """`part` on other channels, its change of activations kept where `activity` is known.

    Factors stay at or above the operator's lowest strength. Raises UsageError where the other channels are silent.
    """
    if activity is None or not scales(part):
        return dataclasses.replace(part, channels=channels)
    gains = gains_of(part)
    own = float(((gains - 1.0) ** 2 * power(activity, part.channels or ())).sum())
    there = float(((gains - 1.0) ** 2 * power(activity, channels)).sum())
    if there <= 0.0:
        raise UsageError(
            f"the other channels of {part.full_sites()[0]} carry nothing, so nothing equal can be done there"
        )
    matched = 1.0 + (own / there) ** 0.5 * (gains - 1.0)
    matched = matched.clamp(min=part.of.low)
    return dataclasses.replace(part, channels=channels, strength=1.0, unit="share", tensors={"gains": matched})
