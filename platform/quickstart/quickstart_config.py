"""The settings of a quickstart: how many models, how many questions, how many controls."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from ..core.config import Config, Seed


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

    draws: int = Field(19, ge=1, le=1000)
    """Draws of each control that has several."""
    development_limit: int = Field(90, ge=1)
    """At most this many questions choose the recipe; those on the test side only judge it."""
    sites: list[str] | None = None
    """Sites within a block whose channels are searched; default: the variant's."""
    budget: int | None = Field(None, ge=1)
    """Forward tokens that a search may read; default: the largest search there is."""
    price_limit: int = Field(48, ge=1)
    """Held-out texts on which the price is measured, at most."""


class QuickstartConfig(Config):
    """Everything that decides the numbers of a quickstart; where it runs is not part of it."""

    models: tuple[str, ...] = Field(("tiny-mamba", "tiny-mamba2"), min_length=1)
    """Shipped models, folders or hub ids."""
    seed: Seed = 0
    """Of the prompts, the classified sample, the split, the controls and the resampling."""
    per_level: int = Field(100, ge=1)
    """Prompts for each of the six levels; about 70 of 100 fall on the test side."""
    classify: ClassifySection = ClassifySection.model_validate({})
    interp: InterpSection = InterpSection.model_validate({})
    steering: SteeringSection = SteeringSection.model_validate({})

    @field_validator("models")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        folders = [folder_name(name) for name in names]
        if len(set(folders)) < len(folders):
            raise ValueError("two models have the same name, and their results the same folder; name each of them once")
        return names


def folder_name(model: str) -> str:
    """The folder for the results of a model: its name, of a path or hub id the last part."""
    return Path(model).name or "model"
