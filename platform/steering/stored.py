"""Steering that lies in a file or folder, whichever kind it is, as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from .from_edits import load_recipe_of_edits
from .recipe import Recipe

if TYPE_CHECKING:
    from ..models import LanguageModel

RECIPE_FILE = "recipe.json"  # of a run


def load_stored(path: Path, model: LanguageModel | None = None) -> Recipe:
    """The recipe at `path`: its file, the folder of a run that holds one, or a folder of stored edits.

    model: that it must be for. Edits do not say whose they are: without a model they are a UsageError. Raises
    InputError for what cannot be read or does not fit `model`.
    """
    if not path.is_dir():
        return Recipe.load(path, model)
    if (path / RECIPE_FILE).is_file():
        return Recipe.load(path / RECIPE_FILE, model)
    if model is None:
        raise UsageError(f"{path} is a folder of stored edits, which name no model; say for which one with --model M")
    return load_recipe_of_edits(path, model)
