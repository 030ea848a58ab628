"""Do these channels matter, or would others that are as lively do?"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ..part import Part
from ..recipe import Recipe
from . import Activity, Comparison, Drawn, control
from .matching import NO_CHANNELS, at_its_sites, channels_of, choosing, moved, power, silent

_NEAREST = 5  # channels among which one is drawn
_TRIES = 20  # of a draw


@control("variance_matched")
def variance_matched(comparison: Comparison) -> Drawn:
    """For every channel of the recipe another one of nearly its mean square, drawn among the nearest that are free: no
    part of the recipe has them, and no other part of the draw."""
    recipe = comparison.recipe
    chosen = choosing(recipe)
    if not chosen:
        return Drawn((), NO_CHANNELS)
    known: dict[int, Activity] = {}
    for i in chosen:
        site, together = recipe.parts[i].full_sites()[0], at_its_sites(recipe, chosen, i)
        activity = comparison.activity_of(recipe.parts[i])
        if activity is None:
            return Drawn((), f"the activity of the channels of {site} on the development questions is not known")
        steered = sum(len(recipe.parts[j].channels or ()) for j in together)
        if len(activity.mean) - len(channels_of(recipe.parts, together)) < steered:
            return Drawn((), f"the recipe steers more than half of the channels of {site}")
        known[i] = activity
    drawn: dict[str, Recipe] = {}
    for attempt in range(_TRIES * comparison.draws):
        if len(drawn) >= comparison.draws:
            break
        parts = _drawn(comparison, chosen, known, attempt)
        if parts is not None:
            made = dataclasses.replace(recipe, parts=tuple(parts))
            drawn.setdefault(made.digest, made)
    return Drawn(tuple(drawn.values()), "" if drawn else silent(recipe.parts[chosen[0]]))


def _drawn(
    comparison: Comparison, chosen: list[int], known: dict[int, Activity], attempt: int
) -> list[Part] | None:  # fmt: skip
    """The parts of one draw; None where one of them would fall on channels that carry nothing."""
    recipe, parts = comparison.recipe, list(comparison.recipe.parts)
    for at, i in enumerate(chosen):
        part, together = recipe.parts[i], at_its_sites(recipe, chosen, i)
        activity = known[i]
        barred = channels_of(recipe.parts, together) | channels_of(parts, [j for j in together if j in chosen[:at]])
        rng = np.random.default_rng(_seed_of(part.full_sites()[0], comparison.seed, attempt))
        size = power(activity, tuple(range(len(activity.mean)))).clamp(min=1e-30).log().numpy()
        free = [c for c in range(len(size)) if c not in barred]
        stands_for: dict[int, int] = {}
        for c in sorted(part.channels or (), key=lambda c: -float(size[c])):
            near = sorted(free, key=lambda o: (abs(float(size[o] - size[c])), o))[:_NEAREST]
            stands_for[c] = int(rng.choice(near))
            free.remove(stands_for[c])
        other = moved(part, tuple(stands_for[c] for c in part.channels or ()), activity)
        if other is None:
            return None
        parts[i] = other
    return parts


def _seed_of(site: str, seed: int, attempt: int) -> int:
    text = f"variance matched {seed} {site} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
