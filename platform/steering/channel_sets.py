"""Sets of channels by one factor: who proposes them, and how a search changes them.

A set is the first channels of an order, which a detector or a fit gives, each with a sign: up by the factor, or down by
it. A search changes the factor, how many channels of the order belong to it, or the order itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .gains import Gains, Place, common


class Pointer(NamedTuple):
    """What a detector proposes. sense: 1 for larger channels, -1 for smaller ones, 0 for its own sign."""

    detector: str
    sense: int

    def signs(self, scores: Tensor) -> Tensor:
        """1 or -1 for each channel, from the detector's numbers (C,)."""
        return scores.sign() if self.sense == 0 else torch.full_like(scores, float(self.sense))


LOUDER, QUIETER = Pointer("quiet_but_heard", 1), Pointer("variance", -1)
POINTERS = (
    LOUDER, Pointer("gradient_norm", 1), Pointer("attribution_t", 0), Pointer("cosine", 0),
    Pointer("mean_ablation", 1), QUIETER,
)  # fmt: skip
#: what is asked again with a set in force, for how many steps at most
GROWING = (Pointer("attribution_t", 0), Pointer("cosine", 0), Pointer("quiet_but_heard", 1))


@dataclass(frozen=True, eq=False)
class ChannelSet:
    """The first channels of an order by one factor. share: of the site's channels; size: logarithm of the
    factor; score: what it gains, nats per answer."""

    place: Place
    pointer: Pointer
    order: tuple[int, ...]
    signs: Tensor
    share: float
    size: float
    score: float = -math.inf

    @property
    def count(self) -> int:
        """How many channels belong to it: at least one."""
        return max(1, min(round(self.share * self.place.channels), self.place.channels))

    @property
    def gains(self) -> Gains:
        """What it does."""
        return common(self.place, self.order, self.signs, self.count, self.size)

    def changed(self, *, share: float | None = None, size: float | None = None) -> ChannelSet:
        """Another number of channels or factor."""
        share, size = self.share if share is None else share, self.size if size is None else size
        return ChannelSet(self.place, self.pointer, self.order, self.signs, share, size)

    def of(self, members: tuple[int, ...], rest: Sequence[int], signs: Tensor) -> ChannelSet:
        """Other members, and who would come next."""
        share = len(members) / self.place.channels
        return ChannelSet(self.place, self.pointer, (*members, *rest), signs, share, self.size)

    def scored(self, score: float) -> ChannelSet:
        """The same with its score."""
        return ChannelSet(self.place, self.pointer, self.order, self.signs, self.share, self.size, score)


def best_first(sets: Sequence[ChannelSet]) -> list[ChannelSet]:
    """Best first; of equals those that came first."""
    return sorted(sets, key=lambda s: -s.score)


def with_signs(old: ChannelSet, new: Tensor, joined: Sequence[int]) -> Tensor:
    """The signs of a set, and those of its new members."""
    signs = old.signs.clone()
    signs[list(joined)] = new[list(joined)]
    return signs


def hopeful(sets: Sequence[ChannelSet]) -> list[ChannelSet]:
    """Best first, without those that are worse than no change, but for the best."""
    order = best_first(sets)
    return [order[0], *(s for s in order[1:] if s.score > 0)]
