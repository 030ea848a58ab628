"""The configuration of an analysis run: what every step shares, and one section for each registered step."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field, create_model

from ...datasets.prompting.truncation import MAX_PROMPT_TOKENS
from ..methods.facts_config import FactsConfig
from .graph import all_steps
from .step import Step, StepSettings

INTERP = "interp"  # names the draw of the generated prompts: none of them is asked by `mplat eval`


class InterpConfig(FactsConfig):
    """What all steps share. `config_model()` adds a section named like the step for each step's settings."""

    model: str | None = Field(None, description="shipped name, folder or hub id")
    tokenizer: str | None = Field(None, description="where the tokenizer is taken from; default: the model's own")
    questions: str | None = Field(None, description="Parquet file of questions; default: prompts of the facts world")
    per_level: int = Field(20, ge=1, description="facts world: prompts for each of the six levels")
    compare: tuple[str, ...] = Field((), description="further models, for the steps that compare several")
    texts: str | None = Field(None, description="file of plain texts, one a line or one a record")
    steps: tuple[str, ...] | None = Field(
        None,
        description="steps to run, with those they need; default: all that take questions, with `facts` and `texts` "
        "also those that take these",
    )
    layers: tuple[int, ...] | None = Field(None, description="blocks to look at; default: all")
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(16, ge=1, description="prompts that go through the model together")
    max_tokens: int = Field(
        MAX_PROMPT_TOKENS, ge=1, description="longest prompt; longer ones are cut or left out as in eval"
    )
    template: str | None = Field(
        None, description="prompt template of questions that bring no prompt; default: that of their data set"
    )


@cache
def config_model() -> type[InterpConfig]:
    """The configuration with a section for every step there is."""
    sections: dict[str, Any] = {name: (step.settings, step.settings()) for name, step in all_steps().items()}
    return create_model("InterpConfig", __base__=InterpConfig, **sections)


def default_config() -> InterpConfig:
    """Every setting at its default."""
    return config_model().model_validate({})


def settings_of(config: InterpConfig, step: Step) -> StepSettings:
    """The section of `step`; its defaults where it was registered after the configuration was made."""
    return getattr(config, step.name, None) or step.settings()
