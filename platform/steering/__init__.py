"""Steering: recipes, the operators they are made of, where they are looked for, and what they are compared with.

    recipe = Recipe.load("runs/eval/recipe.json", model)
    with model.edit(*recipe.edits(model)):
        model.generate(["..."])

Whether a recipe helps is for `mplat.eval` to say, on questions that were not used to find it.
"""

from __future__ import annotations

from .controls import Comparison, Drawn, control, control_names, control_recipes
from .detectors import Detector, detector, detector_names, find_detector
from .layout import Layout
from .operators import Target, find_operator, fitting, operator, operator_names
from .other_states import states_of
from .part import Part
from .recipe import Recipe
from .search import Found, SearchPlan, discover, plan_search
from .source_recipe import source_recipe, source_site
from .variants import Variant, find_variant, layers_with, variant, variant_for, variant_names
from .write_effects import WriteEffect, write_effects

__all__ = [
    "Comparison", "Detector", "Drawn", "Found", "Layout", "Part", "Recipe", "SearchPlan", "Target",
    "Variant", "WriteEffect", "control", "control_names", "control_recipes", "detector", "detector_names", "discover",
    "find_detector", "find_operator", "find_variant", "fitting", "layers_with", "operator",
    "operator_names", "plan_search", "source_recipe", "source_site", "states_of", "variant", "variant_for",
    "variant_names", "write_effects",
]  # fmt: skip
