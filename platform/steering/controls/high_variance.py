"""Do these channels matter, or would simply the liveliest do?"""

from __future__ import annotations

import dataclasses

from . import Comparison, Drawn, control
from .matching import moved


@control("high_variance")
def high_variance(comparison: Comparison) -> Drawn:
    """As many channels of highest variance at the same sites, changed as much as the recipe changes its own."""
    recipe = comparison.recipe
    chosen = [i for i, part in enumerate(recipe.parts) if part.channels is not None and part.of.acts_on == "channels"]
    if not chosen:
        return Drawn((), "the recipe chooses no channels, so others cannot stand in for them")
    parts = list(recipe.parts)
    for i in chosen:
        site = parts[i].full_sites()[0]
        activity = comparison.activity_at(site)
        if activity is None:
            return Drawn((), f"the activity of the channels of {site} on the development questions is not known")
        variance = [float(v) for v in activity.variance]
        order = sorted(range(len(variance)), key=lambda c: (-variance[c], c))
        liveliest = tuple(order[: len(parts[i].channels or ())])
        if set(liveliest) == set(parts[i].channels or ()):
            return Drawn((), "the recipe steers the channels of highest variance itself")
        parts[i] = moved(parts[i], liveliest, activity)
    return Drawn((dataclasses.replace(recipe, parts=tuple(parts)),))
