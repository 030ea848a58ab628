"""Controls: recipes that differ from the found one in the single thing that is claimed to matter.

    @control("random")
    def random_channels(recipe: Recipe, width: int, *, draws: int, seed: int) -> list[Recipe]: ...

A control gets the found recipe and the number of channels of its site and gives one recipe for each draw. They are
run in the same evaluation, on the same questions. "random" asks whether these channels matter: as many others, at the
same site, layer and strength. Other controls are added by registering another function.

Equal arguments give equal controls; draws are distinct, and more draws only add. Whether a control can be drawn as
often as asked depends on the site and the number of channels, never on which they are: so `check_controls` can say it
before a recipe is found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import UsageError
from ..core.registry import Registry
from .recipe import Recipe

if TYPE_CHECKING:
    from ..models import LanguageModel
    from .discovery import Place

Control = Callable[..., list[Recipe]]
CONTROLS: Registry[Control] = Registry("control", "control", __name__)
control, control_names = CONTROLS.itself, CONTROLS.names


def control_recipes(
    names: Sequence[str], recipe: Recipe, width: int, *, draws: int, seed: int
) -> dict[str, list[Recipe]]:
    """Control name -> its draws, in the order of `names`."""
    if draws < 1 and names:
        raise UsageError(f"a control needs at least 1 draw, not {draws}; to run none say --controls none")
    return {name: CONTROLS.get(name)(recipe, width, draws=draws, seed=seed) for name in names}


def check_controls(names: Sequence[str], model: LanguageModel, sites: Iterable[Place], *, draws: int) -> None:
    """Raise UsageError where a recipe for one of `sites` could not have its controls `draws` times."""
    if not names:
        return
    for place in sites:
        channels = tuple(range(place.count))
        some = Recipe("any", place.operator, place.site, place.layer, channels, 1.0, 0, model.digest)
        control_recipes(names, some, place.width, draws=draws, seed=0)


@control("random")
def random_channels(recipe: Recipe, width: int, *, draws: int, seed: int) -> list[Recipe]:
    """As many random channels; none of the recipe's own where the site has enough others, else as few as possible."""
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
    found: dict[tuple[int, ...], None] = {}
    attempt = 0
    while len(found) < draws:
        rng = np.random.default_rng(_seed_of(recipe, seed, attempt))
        attempt += 1
        if borrowed:
            drawn = [*others, *rng.choice(borrowed, size=k - len(others), replace=False).tolist()]
        else:
            drawn = rng.choice(others, size=k, replace=False).tolist()
        found[tuple(sorted(int(c) for c in drawn))] = None
    return [dataclasses.replace(recipe, channels=channels) for channels in found]


def _seed_of(recipe: Recipe, seed: int, attempt: int) -> int:
    """Independent streams for every seed, site, layer and attempt."""
    text = f"random channels {seed} {recipe.full_site} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
