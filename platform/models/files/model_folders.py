"""From the name of a model to the folder that holds it: shipped, a folder of one's own, a checkpoint of a training run
(`runs/x@1000`), or a model of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import InputError, UsageError, suggest
from ..changes import parted
from . import catalog
from . import model_hub as hub
from .training_record import checkpoint_folder


def resolve(name: str | os.PathLike[str]) -> Path:
    """The folder of a model name. Raises UsageError for an empty name, and InputError naming the nearest model that is
    known, or how to fetch one of the hub; also for a model with a recipe, which is no folder."""
    if not isinstance(name, (str, os.PathLike)):
        raise UsageError(f"the name of a model is a text or a path, not {type(name).__name__}; see `mplat models`")
    shipped = catalog.shipped()
    text = os.fsdecode(name)
    if not text.strip():
        raise UsageError(f"the name of the model is empty; {suggest(text, shipped)}; see `mplat models`")
    if text in shipped:
        return shipped[text]
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path} is a file; a model is a folder with config.json and model.safetensors")
    checkpoint = checkpoint_folder(text)
    if checkpoint is not None:
        return checkpoint
    if hub.is_id(text) and isinstance(name, str):
        return hub.fetch(text)
    if parted(text) is not None:
        raise InputError(f"{text}: is a model with a recipe, which no folder holds; name the model without it here")
    raise InputError(f"no model {text!r}: not a folder, and not shipped; {catalog.near(text)}; see `mplat models`")
