"""Steering: recipes, the operators they are made of, where they are looked for, and what they are compared with.

    recipe = Recipe.load("runs/eval/recipe.json", model)
    with model.edit(*recipe.edits()):
        model.generate(["..."])

Whether a recipe helps is for `mplat.eval` to say, on questions that were not used to find it.
"""

from __future__ import annotations

from .controls import check_controls, control, control_names, control_recipes
from .discovery import Scored, choose, grid, places
from .operators import find_operator, operator, operator_names
from .recipe import Recipe
from .variants import Variant, find_variant, variant, variant_for, variant_names

__all__ = [
    "Recipe", "Scored", "Variant", "check_controls", "choose", "control", "control_names", "control_recipes",
    "find_operator", "find_variant", "grid", "operator", "operator_names", "places", "variant", "variant_for",
    "variant_names",
]  # fmt: skip
