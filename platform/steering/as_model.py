"""A recipe behind the name of a model: `load("tiny-mamba:recipe.json")` is that model, steered in all it reads.

A model is a function of a text alone. So a recipe counts as a part of one only where each of its parts acts at all
positions and in both phases: where a prompt ends, and what in it is the question or the evidence, no text says, and a
model steered there would be another one for every analysis that reads a prompt with its answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..models.changes import Change, model_change
from .operators import OPERATORS
from .stored import load_stored

if TYPE_CHECKING:
    from ..models import Edit, LanguageModel
    from .part import Part


@model_change("recipe")
def recipe_in_force(model: LanguageModel, path: Path) -> Change:
    """The recipe at `path` (see `load_stored`) as a change of `model`; without edits where it changes nothing.

    Raises InputError for what cannot be read, a recipe for another model, and one that needs to know a prompt.
    """
    recipe = load_stored(path, model)
    edits: list[Edit] = []
    for number, part in enumerate(recipe.parts):
        if part.is_identity:
            continue
        where = part.positions if isinstance(part.positions, str) else "numbered tokens"
        if where != "all":
            raise _no_model(path, number, part, f"at positions {where!r}")
        for edit in part.edits(model):
            if edit.phase != "both":
                raise _no_model(path, number, part, f"in the phase {edit.phase!r}")
            if edit.selection.positions is not None or edit.where is not None or edit.of_rows:
                raise _no_model(path, number, part, "at some tokens of some texts")
            edits.append(edit)
    operators = {OPERATORS.module(name) for name in recipe.operators}
    kinds = {cls.__module__ for edit in edits for cls in type(edit).__mro__ if cls is not object}
    code = {f"{__package__}.part", *operators, *kinds}
    return Change(tuple(edits), recipe.digest, tuple(sorted(code)))


def _no_model(path: Path, number: int, part: Part, where: str) -> InputError:
    return InputError(
        f"{path}: part {number} ({part.operator}) acts {where}, and behind the name of a model a recipe has to act at "
        "all positions in both phases, since a model knows a text and not its prompt; `Recipe.everywhere` makes it so"
    )
