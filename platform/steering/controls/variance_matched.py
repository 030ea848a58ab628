"""Do these channels matter, or would others that are as lively do?"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ..recipe import Recipe
from . import Comparison, Drawn, control
from .matching import moved, power


@control("variance_matched")
def variance_matched(comparison: Comparison) -> Drawn:
    """For every channel of the recipe another one of nearly its mean square, drawn among the nearest that are free."""
    recipe = comparison.recipe
    chosen = [i for i, part in enumerate(recipe.parts) if part.channels is not None and part.of.acts_on == "channels"]
    if not chosen:
        return Drawn((), "the recipe chooses no channels, so others cannot stand in for them")
    drawn: dict[str, Recipe] = {}
    for attempt in range(20 * comparison.draws):
        if len(drawn) >= comparison.draws:
            break
        parts = list(recipe.parts)
        for i in chosen:
            part = parts[i]
            site = part.full_sites()[0]
            activity = comparison.activity_at(site)
            if activity is None:
                return Drawn((), f"the activity of the channels of {site} on the development questions is not known")
            own = part.channels or ()
            free = [c for c in range(len(activity.mean)) if c not in set(own)]
            if len(free) < len(own):
                return Drawn((), f"the recipe steers more than half of the channels of {site}")
            rng = np.random.default_rng(_seed_of(site, comparison.seed, attempt))
            size = power(activity, tuple(range(len(activity.mean)))).clamp(min=1e-30).log().numpy()
            taken: list[int] = []
            for c in sorted(own, key=lambda c: -float(size[c])):
                near = sorted(set(free) - set(taken), key=lambda o: (abs(float(size[o] - size[c])), o))[:5]
                taken.append(int(rng.choice(near)))
            order = {c: t for c, t in zip(sorted(own, key=lambda c: -float(size[c])), taken, strict=True)}
            parts[i] = moved(part, tuple(order[c] for c in own), activity)
        made = dataclasses.replace(recipe, parts=tuple(parts))
        drawn.setdefault(made.digest, made)
    return Drawn(tuple(drawn.values()))


def _seed_of(site: str, seed: int, attempt: int) -> int:
    text = f"variance matched {seed} {site} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
