"""`mplat steer show RECIPE`: what a recipe does, in words, and whether it fits a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .frame.command import command
from .frame.options import Json, as_path
from .frame.output import Output

if TYPE_CHECKING:
    from ..steering import Recipe

StoredRecipe = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", parser=as_path, help="A recipe's file, a run's folder, or a folder of stored edits."
    ),
]


@command("steer show", order=47)
def steer_show(
    recipe: StoredRecipe,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Check too that the recipe fits this model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say in words what a recipe does, for which model, and what it was made from."""
    from ..models import load
    from ..steering.in_words import describe
    from ..steering.stored import load_stored

    read = load_stored(recipe, None if model is None else load(model))
    does = describe(read)
    values = {
        "name": read.name,
        "digest": read.digest,
        "model_digest": read.model_digest,
        "seed": read.seed,
        "identity": read.is_identity,
        "does": does,
        "made_from": _made_from(read),
        "fits": model,
    }
    words = [
        f"recipe {read.digest}" + (f", {read.name}" if read.name else ""),
        f"for the model with digest {read.model_digest[:12]}" + (f"; it fits {model}" if model else ""),
        *_origin(read),
        *(f"{number}. {line}" for number, line in enumerate(does, 1)),
    ]
    Output(json=as_json).result(values, *words)


def _made_from(recipe: Recipe) -> Mapping[str, Any]:
    return {
        name: list(value) if isinstance(value, (list, tuple)) else value for name, value in recipe.made_from.items()
    }


def _origin(recipe: Recipe) -> list[str]:
    """What it was made from, in a line: digests of questions are counted."""
    parts = [
        f"{len(value)} {name}" if isinstance(value, (list, tuple)) else f"{name} {value}"
        for name, value in recipe.made_from.items()
    ]
    return [f"made from {', '.join(parts)}, seed {recipe.seed}"] if parts else ["what it was made from is not recorded"]
