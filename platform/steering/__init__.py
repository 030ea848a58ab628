"""Steering: recipes, the operators they are made of, where they are looked for, and what they are compared with.

    recipe = Recipe.load("runs/eval/recipe.json", model)
    with model.edit(*recipe.edits(model)):
        model.generate(["..."])

Whether a recipe helps is for `mplat.eval` to say, on questions that were not used to find it.
"""

from __future__ import annotations

from .controls import Comparison, Drawn, control, control_names, control_recipes
from .discovery import Scored, choose, grid, places
from .layout import Layout
from .operators import Target, find_operator, fitting, operator, operator_names
from .part import Part
from .recipe import Recipe
from .source_recipe import source_recipe, source_site
from .variants import Variant, find_variant, layers_with, variant, variant_for, variant_names

__all__ = [
    "Comparison", "Drawn", "Layout", "Part", "Recipe", "Scored", "Target", "Variant", "choose", "control",
    "control_names", "control_recipes", "find_operator", "find_variant", "fitting", "grid", "layers_with", "operator",
    "operator_names", "places", "source_recipe", "source_site", "variant", "variant_for", "variant_names",
]  # fmt: skip
