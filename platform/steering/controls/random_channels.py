"""Do these channels matter, or would as many others do?"""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np

from ...core.errors import UsageError
from ..recipe import Recipe
from . import control


@control("random")
def random_channels(recipe: Recipe, width: int, *, draws: int, seed: int) -> list[Recipe]:
    """As many random channels; none of the recipe's own where the site has enough others, else as few as possible.

    Raises UsageError where all channels are the recipe's, or fewer than `draws` choices differ.
    """
    own = set(recipe.channels)
    others = [c for c in range(width) if c not in own]
    k = len(own)
    if not others:
        raise UsageError(
            f"the recipe steers all {width} channels of {recipe.full_site}, so no random channels are left to compare "
            "with; steer fewer channels, or say --controls none and claim nothing"
        )
    borrowed = sorted(own) if len(others) < k else []
    possible = math.comb(len(others), k) if not borrowed else math.comb(k, k - len(others))
    if draws > possible:
        raise UsageError(f"{recipe.full_site} allows only {possible} distinct random controls; use --draws {possible}")
    drawn: dict[tuple[int, ...], None] = {}
    attempt = 0
    while len(drawn) < draws:
        rng = np.random.default_rng(_seed_of(recipe, seed, attempt))
        attempt += 1
        if borrowed:
            chosen = [*others, *rng.choice(borrowed, size=k - len(others), replace=False).tolist()]
        else:
            chosen = rng.choice(others, size=k, replace=False).tolist()
        drawn[tuple(sorted(int(c) for c in chosen))] = None
    return [dataclasses.replace(recipe, channels=channels) for channels in drawn]


def _seed_of(recipe: Recipe, seed: int, attempt: int) -> int:
    """Independent streams for every seed, site, layer and attempt."""
    text = f"random channels {seed} {recipe.full_site} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
