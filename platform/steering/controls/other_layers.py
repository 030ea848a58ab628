"""Does this layer matter, or would the same elsewhere do?"""

from __future__ import annotations

import dataclasses

from ...core.errors import InputError
from ..part import Part
from ..recipe import Recipe
from . import Comparison, Drawn, control


@control("other_layers")
def other_layers(comparison: Comparison) -> Drawn:
    """The same recipe at every other layer that has its sites; of a recipe of several layers, all moved together. What
    a part knows of each of its layers, their root mean squares, moves with it."""
    recipe, n = comparison.recipe, comparison.model.n_layers
    made: list[Recipe] = []
    for shift in range(1, n):
        there = dataclasses.replace(recipe, parts=tuple(_moved(part, shift, n) for part in recipe.parts))
        try:
            there.check(comparison.model)
        except InputError:  # a layer of another kind, without the site or with another width
            continue
        if there.digest != recipe.digest:
            made.append(there)
    if not made:
        return Drawn((), "no other layer has the sites that the recipe acts on")
    return Drawn(tuple(made[: comparison.draws]))


def _moved(part: Part, shift: int, n: int) -> Part:
    layers = [(layer + shift) % n for layer in part.layers]
    order = sorted(range(len(layers)), key=layers.__getitem__)
    scales = tuple(part.scales[i] for i in order) if part.scales else ()
    return dataclasses.replace(part, layers=tuple(layers[i] for i in order), scales=scales)
