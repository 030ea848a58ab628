"""The configuration of an analysis run: what every step shares, and one section for each registered step."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from ...core.config import Seed
from ...core.option import Device, Model, Option, Tokenizer
from ...core.typed_lists import parse_names, parse_words
from ...datasets.prompting.truncation import MAX_PROMPT_TOKENS
from ..methods.facts_config import FactsConfig
from .graph import all_steps
from .step import Step, StepSettings

INTERP = "interp"  # names the draw of the generated prompts: none of them is asked by `mplat eval`


def _steps(text: str, option: str) -> list[str] | None:
    """None for all: which these are depends on what else is named (`inputs.chosen_steps`)."""
    return None if text.strip() == "all" else parse_names(text, all_steps(), option=option)


class InterpConfig(FactsConfig):
    """What all steps share. `config_model()` adds a section named like the step for each step's settings."""

    model: Model = None
    tokenizer: Tokenizer = None
    questions: Annotated[Path | None, Option()] = Field(
        None,
        description="Questions from `mplat classify`, or prompts of your own as .txt, .jsonl, .csv or .parquet; "
        "default: prompts of the facts world.",
    )
    per_level: Annotated[int, Option()] = Field(20, ge=1, description="Generated prompts for each of the six levels.")
    compare: Annotated[tuple[str, ...], Option(metavar="A,B", parse=parse_words)] = Field(
        (),
        description="Further models, for the analyses that compare several; RUN@* is every checkpoint of a training.",
    )
    texts: Annotated[str | None, Option(metavar="FILE")] = Field(
        None, description="Plain texts for the analyses that take them, one a line or one a record."
    )
    steps: Annotated[
        tuple[str, ...] | None,
        Option(metavar="all|A,B", help="Analyses to run; `mplat interp ls` lists them.", parse=_steps),
    ] = Field(
        None,
        description="steps to run, with those they need; default: all that take questions, with `facts` and `texts` "
        "also those that take these",
    )
    layers: Annotated[tuple[int, ...] | None, Option(metavar="0,2-4|all", blocks=True)] = Field(
        None, description="Blocks to look at; default all."
    )
    seed: Seed = 0
    device: Device = "cpu"
    batch_size: int = Field(16, ge=1, description="prompts that go through the model together")
    max_tokens: int = Field(
        MAX_PROMPT_TOKENS, ge=1, description="longest prompt; longer ones are cut or left out as in eval"
    )
    length: int | None = Field(
        None,
        ge=1,
        description="tokens that every prompt gets by filler, and every text is cut to, in place of `max_tokens`; "
        "default: prompts as they are",
    )
    filler: Literal["front", "between"] = Field(
        "front", description="where it stands: before all that a prompt tells, or between the fact and the question"
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
