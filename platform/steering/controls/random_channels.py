"""Do these channels matter, or would as many others do?"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ..part import Part
from ..recipe import Recipe, site_width
from . import Comparison, Drawn, control
from .matching import NO_CHANNELS, at_its_sites, channels_of, choosing, moved, silent

_TRIES = 50  # of a draw: enough to come by nearly all of the few sets that a small site has


@control("random")
def random_channels(comparison: Comparison) -> Drawn:
    """As many random channels at the same sites, none of the recipe's own where the site has enough others, else as few
    as possible; with the gains that change activations as much as the recipe does, where activity is known. Parts at
    one site are drawn apart from each other, as far as the site reaches."""
    recipe, model = comparison.recipe, comparison.model
    chosen = choosing(recipe)
    if not chosen:
        return Drawn((), NO_CHANNELS)
    widths = {i: site_width(model, recipe.parts[i].full_sites()[0]) or 0 for i in chosen}
    own = {i: channels_of(recipe.parts, at_its_sites(recipe, chosen, i)) for i in chosen}
    full = [i for i in chosen if len(own[i]) >= widths[i]]
    if full:
        site = recipe.parts[full[0]].full_sites()[0]
        return Drawn((), f"the recipe steers all {widths[full[0]]} channels of {site}, so no others are left")
    drawn: dict[tuple[tuple[int, ...], ...], Recipe] = {}
    for attempt in range(_TRIES * (comparison.draws + 4)):
        if len(drawn) >= comparison.draws:
            break
        parts = _drawn(comparison, chosen, own, widths, attempt)
        if parts is not None:
            key = tuple(tuple(sorted(parts[i].channels or ())) for i in chosen)
            drawn.setdefault(key, dataclasses.replace(recipe, parts=tuple(parts)))
    return Drawn(tuple(drawn.values()), "" if drawn else silent(recipe.parts[chosen[0]]))


def _drawn(
    comparison: Comparison, chosen: list[int], own: dict[int, set[int]], widths: dict[int, int], attempt: int
) -> list[Part] | None:
    """The parts of one draw; None where one of them would fall on channels that carry nothing."""
    recipe, parts = comparison.recipe, list(comparison.recipe.parts)
    for at, i in enumerate(chosen):
        taken = channels_of(parts, [j for j in at_its_sites(recipe, chosen, i) if j in chosen[:at]])
        rng = np.random.default_rng(_seed_of(recipe.parts[i], i, comparison.seed, attempt))
        there = comparison.activity_of(recipe.parts[i])
        other = moved(parts[i], _others(len(parts[i].channels or ()), widths[i], own[i], taken, rng), there)
        if other is None:
            return None
        parts[i] = other
    return parts


def _others(
    count: int, width: int, own: set[int], taken: set[int], rng: np.random.Generator
) -> tuple[int, ...]:  # fmt: skip
    """`count` channels in random order, so that gains fall on them at random: others, then the recipe's own, and last
    those that another part of the draw has."""
    tiers = (
        [c for c in range(width) if c not in own and c not in taken],
        [c for c in range(width) if c in own and c not in taken],
        sorted(taken),
    )
    found: list[int] = []
    for tier in tiers:
        size = min(count - len(found), len(tier))
        if size == count:
            return tuple(int(c) for c in rng.choice(tier, size=size, replace=False))
        found += tier if size == len(tier) else rng.choice(tier, size=size, replace=False).tolist()
    return tuple(int(c) for c in rng.permutation(found))


def _seed_of(part: Part, index: int, seed: int, attempt: int) -> int:
    """Independent streams for every seed, part and attempt."""
    text = f"random channels {seed} {index} {part.full_sites()[0]} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
