"""The settings of an evaluation: what is asked, where steering is looked for, what it is compared with, how it is
judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ..core.config import Config, Seed
from ..core.option import Device, Option, Tokenizer
from ..core.typed_lists import parse_names, parse_numbers, parse_words
from ..datasets.prompting.truncation import MAX_PROMPT_TOKENS

MAX_DOSE = 100.0  # times the recipe's own


def _controls(text: str, option: str) -> list[str]:
    return [] if text.strip() == "none" else parse_names(text, all_controls(), option=option)


def all_controls() -> list[str]:
    """Everything that steering can be compared with: the registered controls, the plain words of a prompt, and other
    ways to learn from the same examples."""
    from ..steering.controls import control_names

    return [*control_names(), PROMPT_CONTROL, *BASELINES]


PROMPT_CONTROL = "prompt"  # solved examples before every prompt, no steering
BASELINES = ("lora", "soft_prefix")  # other ways to learn what a learned state was learned from (`baselines`)


def _doses(text: str, option: str) -> list[float]:
    return parse_numbers(text, low=-MAX_DOSE, high=MAX_DOSE, option=option)


class SteeringSection(Config):
    """Where a recipe is looked for. What is left out is the variant's own."""

    variant: Annotated[
        str | None,
        Option(
            "--steering",
            "NAME",
            "Steering variant, such as mamba or mamba2; NAME:source: the published rule; general: for any model; none: "
            "ask without steering; a recipe's file; several with commas between them, or all.",
        ),
    ] = None
    """mamba, mamba2, ..., general for any model, none for no steering; default: the variant named like the model's
    architecture, else the general one. With :source, its published rule instead of a search."""
    recipe: Annotated[Path | None, Option()] = None
    """Judge this stored recipe; search for none."""
    edits: Annotated[Path | None, Option(help="Judge the edits in this folder, as save_edits wrote them.")] = None
    """Judge stored edits of any kind; search for none."""
    sites: Annotated[list[str] | None, Option(metavar="NAMES", parse=parse_words)] = None
    """Sites within a block whose channels are searched, such as mixer_out and mixer.delta."""
    layers: Annotated[list[int] | None, Option(metavar="0,6,12", blocks=True)] = None
    """Layers that are searched; default: all that have the sites."""
    parts: int = Field(1, ge=1, le=8)
    """Parts that a recipe may have at most; each is looked for with those before it in force."""
    budget: Annotated[int | None, Option(metavar="TOKENS", help="Forward tokens that the search may read.")] = Field(
        default=None, ge=1
    )
    """Forward tokens that the search may read; a backward pass counts as two. Default: the largest search there is."""
    alpha: float = Field(0.025, gt=0, lt=1)
    """One-sided level at which the search changes the model at all."""

    @field_validator("layers", "sites")
    @classmethod
    def _distinct(cls, values: list[object] | None) -> list[object] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("give at least one value, and none twice")
        return values

    @model_validator(mode="after")
    def _one_source(self) -> SteeringSection:
        if self.recipe is not None and self.edits is not None:
            raise ValueError("a stored recipe and stored edits: give one of them")
        return self


class EvalConfig(Config):
    """Everything that decides the tables of an evaluation; where it runs is not part of it."""

    model: Annotated[str | None, Option(metavar="M")] = None
    """A shipped model, a folder, or a hub id; default: the variant's."""
    tokenizer: Tokenizer = None
    """A folder, a tokenizer.json, a shipped model or a hub id to take the tokenizer from; default: the model's own."""
    mode: Annotated[
        Literal["prompts", "dataset", "both"] | None,
        Option(help="Ask generated prompts of six levels, the rows of --questions (the default where given), or both."),
    ] = None
    """prompts: the generated questions of levels 1-6; dataset: the rows of `questions`; default: dataset where
    given."""
    questions: Annotated[Path | None, Option()] = None
    """Questions from `mplat classify`, or prompts of your own as .txt, .jsonl, .csv or .parquet."""
    per_level: Annotated[int, Option()] = Field(100, ge=1)
    """Generated prompts per level."""
    limit: Annotated[int | None, Option(help="At most this many questions.")] = Field(default=None, ge=1)
    """At most this many questions in all, as equally from every category as there are; those without an answer come
    with their originals."""
    header: Annotated[Path | None, Option(help="Text that is put before every prompt, such as solved examples.")] = None
    """A file whose text is put before every prompt; it is read once for prompts that are answered together."""
    template: str | None = None
    """Prompt template of every question that brings no prompt, such as facts; default: that of its data set."""
    seed: Seed = 0
    """Of the generated questions, the split, the controls and the resampling."""
    steering: SteeringSection = SteeringSection.model_validate({})
    development_share: float = Field(0.3, gt=0, lt=1)
    """Expected share of questions that steering may be tuned on; the others judge it."""
    development_limit: int = Field(180, ge=1)
    """At most this many development questions are used."""
    controls: Annotated[
        list[str] | None,
        Option(metavar="all|none|NAMES", help="What steering is compared with.", parse=_controls),
    ] = None
    """What steering is compared with; default: everything there is; an empty list runs none."""
    draws: Annotated[int, Option()] = Field(19, ge=1, le=1000)
    """Draws of each control that has several; fewer than 19 cannot support a claim."""
    robust: Annotated[bool, Option()] = False
    """Ask the test questions in other words and with longer contexts too, and questions of another seed."""
    doses: Annotated[list[float] | None, Option("--strength", "0.5,1.5,2", parse=_doses)] = None
    """Judge the recipe at these shares of its dose too: 0 leaves the model as it is, 1 is the recipe, -1 its
    opposite."""
    likelihood: Annotated[bool, Option(off="--no-likelihood")] = True
    """Score the right answer and distractors too, from the reading of the same prompts."""
    max_new_tokens: Annotated[int, Option()] = Field(16, ge=1)
    """Longest answer in tokens."""
    max_prompt_tokens: int = Field(MAX_PROMPT_TOKENS, ge=8)
    """Longest prompt; contexts are cut to fit, what holds no evidence first."""
    stop: list[str] = ["\n"]
    """Texts that end an answer."""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Option(help="Of the weights; auto: the faster one here.")
    ] = "float32"
    """Of the weights; auto: bfloat16 where that is faster. States and scans are float32 in any case."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    batch_size: Annotated[int, Option(help="Prompts answered together.")] = Field(32, ge=1)
    """Prompts answered together; part of the result, because it decides the last bits."""
    price_texts: Annotated[Path | None, Option()] = None
    """Held-out text of the model's training on which the price of steering is measured, as .txt, .jsonl or .parquet;
    default: what the model's folder says it was trained on, else the questions themselves."""
    price_limit: int = Field(48, ge=1)
    """At most this many such texts."""
    price_tolerated: float = Field(0.05, ge=0)
    """Nats of a token that a dose may cost and still be one that ships."""
    fail_over: Annotated[float, Option(metavar="SHARE")] = Field(0.05, ge=0, le=1)
    """Share of test rows without a score above which the exit is 1."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of all intervals."""
    resamples: int = Field(10_000, ge=100)
    """Bootstrap resamples and random sign flips."""

    @field_validator("doses")
    @classmethod
    def _doses_can_be(cls, values: list[float] | None) -> list[float] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("give at least one dose, and none twice")
        if any(not abs(value) <= MAX_DOSE for value in values or ()):
            raise ValueError(f"a dose lies between -{MAX_DOSE:g} and {MAX_DOSE:g}")
        return values
