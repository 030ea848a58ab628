"""Do these channels matter, or would simply the liveliest do?"""

from __future__ import annotations

import dataclasses

from . import Comparison, Drawn, control
from .matching import NO_CHANNELS, at_its_sites, channels_of, choosing, moved, silent


@control("high_variance")
def high_variance(comparison: Comparison) -> Drawn:
    """As many channels of highest variance at the same sites, changed as much as the recipe changes its own; of several
    parts at one site the first has the liveliest, the second those after them."""
    recipe = comparison.recipe
    chosen = choosing(recipe)
    if not chosen:
        return Drawn((), NO_CHANNELS)
    parts = list(recipe.parts)
    for at, i in enumerate(chosen):
        part, together = recipe.parts[i], at_its_sites(recipe, chosen, i)
        site = part.full_sites()[0]
        activity = comparison.activity_of(recipe.parts[i])
        if activity is None:
            return Drawn((), f"the activity of the channels of {site} on the development questions is not known")
        variance = [float(v) for v in activity.variance]
        taken = channels_of(parts, [j for j in together if j in chosen[:at]])
        order = sorted(range(len(variance)), key=lambda c: (c in taken, -variance[c], c))
        other = moved(part, tuple(order[: len(part.channels or ())]), activity)
        if other is None:
            return Drawn((), silent(part))
        parts[i] = other
    if all(set(parts[i].channels or ()) == set(recipe.parts[i].channels or ()) for i in chosen):
        return Drawn((), "the recipe steers the channels of highest variance itself")
    return Drawn((dataclasses.replace(recipe, parts=tuple(parts)),))
