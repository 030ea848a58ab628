"""Do these channels matter, or would as many others do?"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from itertools import count

import numpy as np

from ..part import Part
from ..recipe import Recipe, site_width
from . import Comparison, Drawn, control
from .matching import moved as moved_to


@control("random")
def random_channels(comparison: Comparison) -> Drawn:
    """As many random channels at the same sites, none of the recipe's own where the site has enough others, else as few
    as possible; with the gains that change activations as much as the recipe does, where activity is known."""
    recipe, model = comparison.recipe, comparison.model
    moved = [i for i, part in enumerate(recipe.parts) if part.channels is not None and part.of.acts_on == "channels"]
    if not moved:
        return Drawn((), "the recipe chooses no channels, so others cannot stand in for them")
    widths = {i: site_width(model, recipe.parts[i].full_sites()[0]) or 0 for i in moved}
    full = [i for i in moved if len(recipe.parts[i].channels or ()) >= widths[i]]
    if full:
        site = recipe.parts[full[0]].full_sites()[0]
        return Drawn((), f"the recipe steers all {widths[full[0]]} channels of {site}, so no others are left")
    possible = math.prod(_choices(recipe.parts[i], widths[i]) for i in moved)
    drawn: dict[tuple[tuple[int, ...], ...], Recipe] = {}
    for attempt in count():
        if len(drawn) >= min(comparison.draws, possible):
            break
        parts = list(recipe.parts)
        for i in moved:
            rng = np.random.default_rng(_seed_of(parts[i], i, comparison.seed, attempt))
            there = comparison.activity_at(parts[i].full_sites()[0])
            parts[i] = moved_to(parts[i], _others(parts[i], widths[i], rng), there)
        key = tuple(tuple(sorted(parts[i].channels or ())) for i in moved)
        drawn.setdefault(key, dataclasses.replace(recipe, parts=tuple(parts)))
    return Drawn(tuple(drawn.values()))


def _choices(part: Part, width: int) -> int:
    """How many sets of channels there are for `part`."""
    k = len(part.channels or ())
    return math.comb(width - k, k) if width - k >= k else math.comb(k, 2 * k - width)


def _others(part: Part, width: int, rng: np.random.Generator) -> tuple[int, ...]:
    """As many channels, in random order, so that gains fall on them at random."""
    own = sorted(part.channels or ())
    others = [c for c in range(width) if c not in set(own)]
    if len(others) >= len(own):
        return tuple(int(c) for c in rng.choice(others, size=len(own), replace=False))
    borrowed = rng.choice(own, size=len(own) - len(others), replace=False).tolist()
    return tuple(int(c) for c in rng.permutation([*others, *borrowed]))


def _seed_of(part: Part, index: int, seed: int, attempt: int) -> int:
    """Independent streams for every seed, part and attempt."""
    text = f"random channels {seed} {index} {part.full_sites()[0]} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
