"""Did the search find something about the answers, or would it have found as much in noise?"""

from __future__ import annotations

from ..recipe import Recipe
from . import Comparison, Drawn, control


@control("shuffled_labels")
def shuffled_labels(comparison: Comparison) -> Drawn:
    """The whole search repeated on the same development questions with their answers dealt to other questions. Where it
    finds the recipe itself, that is a draw too, and one that the recipe cannot beat."""
    if comparison.search is None:
        return Drawn((), "the recipe was given and not searched for, so there is no search to repeat")
    found: dict[str, Recipe] = {}
    repetitions = min(comparison.draws, REPEATS)
    for draw in range(repetitions):
        made = comparison.search(comparison.seed + 1 + draw)
        if not made.is_identity:
            found.setdefault(made.digest, made)
    if not found:
        return Drawn((), f"with shuffled answers the search left the model as it is in all {repetitions} repetitions")
    return Drawn(tuple(found.values()))


REPEATS = 3  # each is as long as the search itself
