"""The settings of a quickstart: which models, how many questions, where a recipe is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ..core.config import Config, Seed
from ..core.option import Option
from ..core.typed_lists import parse_words

PLANTED = "planted-"  # what the folder of a planted model begins with
NONE = "none"
CONTROLS = ("random", "random_direction", "variance_matched", "high_variance", "other_layers", "prompt")


def _plant(text: str, option: str) -> str | None:
    return None if text.strip() == NONE else text


class ClassifySection(Config):
    """The sample of questions in real file formats, made of the facts world, that is classified."""

    per_level: int = Field(20, ge=1)
    """Generated questions per level that are written to the files."""
    per_category: int = Field(30, ge=0)
    """Questions of a category that are drawn from them; 0: all."""


class InterpSection(Config):
    """What is looked at inside the models, on development questions alone."""

    steps: tuple[str, ...] = Field(("activations", "delta_sensitivity", "bottlenecks"), min_length=1)
    """Steps of `mplat interp`, with those they need."""


class SteeringSection(Config):
    """How steering is looked for and judged; what is not here is as in `mplat eval`."""

    controls: list[str] | None = list(CONTROLS)
    """What steering is compared with. `shuffled_labels` is left out: it repeats the whole search, and the undamaged
    model shows whether a search finds something where nothing is. null: everything that `mplat eval` has."""
    draws: int = Field(19, ge=1, le=1000)
    """Draws of each control that has several."""
    development_limit: int = Field(36, ge=1)
    """At most this many questions choose the recipe; those on the test side only judge it."""
    sites: list[str] | None = ["mixer_out"]
    """Sites within a block whose channels are searched, in all models alike; null: those of each model's variant."""
    budget: int | None = Field(800_000, ge=1)
    """Forward tokens that a search may read; null: the largest search there is."""
    price_limit: int = Field(24, ge=1)
    """Held-out texts on which the price is measured, at most."""


class QuickstartConfig(Config):
    """Everything that decides the numbers of a quickstart; where it runs is not part of it."""

    plant: Annotated[
        str | None,
        Option(metavar="NAME|none", parse=_plant,
               help="A model with a known damage, which is judged first, as `mplat eval planted` names it."),
    ] = "tiny-mamba2:mixer_out:1/16:0"  # fmt: skip
    """A model with a known damage, which is judged before the others; null: none."""
    models: Annotated[
        tuple[str, ...], Option(metavar="NAMES", parse=parse_words, help="Undamaged models, with commas between them.")
    ] = Field(("tiny-mamba2",), min_length=1)
    """Models that are judged as they are: shipped ones, folders or hub ids."""
    seed: Seed = 0
    """Of the prompts, the classified sample, the split, the controls and the resampling."""
    per_level: int = Field(30, ge=1)
    """Prompts for each of the six levels; about 20 of 30 fall on the test side."""
    classify: ClassifySection = ClassifySection.model_validate({})
    interp: InterpSection = InterpSection.model_validate({})
    steering: SteeringSection = SteeringSection.model_validate({})

    @model_validator(mode="after")
    def _distinct(self) -> QuickstartConfig:
        folders = [*([planted_folder(self.plant)] if self.plant else []), *map(folder_name, self.models)]
        if len(set(folders)) < len(folders):
            raise ValueError("two models have the same name, and their results the same folder; name each of them once")
        return self


def planted_folder(plant: str) -> str:
    """The folder of the model that a plant grows into, and of its results."""
    return PLANTED + plant.partition(":")[0].removeprefix("tiny-")


def folder_name(model: str) -> str:
    """The folder for the results of a model: its name, of a path or hub id the last part."""
    return Path(model).name or "model"
