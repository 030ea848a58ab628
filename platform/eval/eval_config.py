"""The settings of an evaluation: what is asked, where steering is looked for, what it is compared with, how it is
judged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ..core.config import Config
from ..datasets.prompting.truncation import MAX_PROMPT_TOKENS
from ..steering.operators import MAX_STRENGTH, STRENGTH_RANGE


class SteeringSection(Config):
    """Where a recipe is looked for. What is left out is the variant's own."""

    variant: str | None = None
    """mamba, mamba2, ..., general for any model, none for no steering; default: the variant named like the model's
    architecture, else the general one."""
    recipe: Path | None = None
    """A stored recipe to judge: nothing is searched for."""
    operators: list[str] | None = None
    """How strengths act: scale_mixer_out, scale_delta."""
    layers: list[int] | None = None
    """Candidate blocks, from 0."""
    strengths: list[float] | None = None
    """Candidate strengths of every operator; 1 leaves the model as it is."""
    channel_share: float | None = Field(default=None, gt=0, le=1)
    """Part of a site's channels that is steered."""

    @field_validator("layers", "strengths", "operators")
    @classmethod
    def _distinct(cls, values: list[object] | None) -> list[object] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("give at least one value, and none twice")
        return values

    @field_validator("strengths")
    @classmethod
    def _in_range(cls, values: list[float] | None) -> list[float] | None:
        if any(not 0 < value <= MAX_STRENGTH for value in values or ()):
            raise ValueError(f"a strength is out of range; allowed: {STRENGTH_RANGE}")
        return values


class EvalConfig(Config):
    """Everything that decides the tables of an evaluation; where it runs is not part of it."""

    model: str | None = None
    """A shipped model, a folder, or a hub id; default: the variant's."""
    tokenizer: str | None = None
    """A folder, a tokenizer.json, a shipped model or a hub id to take the tokenizer from; default: the model's own."""
    mode: Literal["prompts", "dataset", "both"] | None = None
    """prompts: the generated questions of levels 1-6; dataset: the rows of `questions`; default: dataset where
    given."""
    questions: Path | None = None
    """A file of questions: as `mplat classify` and `mplat prompts` write them, or prompts of your own."""
    per_level: int = Field(100, ge=1)
    """Generated questions per level."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many questions in all, as equally from every category as there are; those without an answer come
    with their originals."""
    template: str | None = None
    """Prompt template of every question that brings no prompt, such as facts; default: that of its data set."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the generated questions, the split, the controls and the resampling."""
    steering: SteeringSection = SteeringSection()
    development_share: float = Field(0.3, gt=0, lt=1)
    """Expected share of questions that steering may be tuned on; the others judge it."""
    development_limit: int = Field(90, ge=1)
    """At most this many development questions are used."""
    controls: list[str] | None = None
    """What steering is compared with; default: everything there is; an empty list runs none."""
    draws: int = Field(3, ge=1, le=1000)
    """Random draws of each control."""
    max_new_tokens: int = Field(16, ge=1)
    """Longest answer."""
    max_prompt_tokens: int = Field(MAX_PROMPT_TOKENS, ge=8)
    """Longest prompt; contexts are cut to fit, what holds no evidence first."""
    stop: list[str] = ["\n"]
    """Texts that end an answer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the weights; auto: bfloat16 where that is faster. States and scans are float32 in any case."""
    batch_size: int = Field(32, ge=1)
    """Prompts answered together; part of the result, because it decides the last bits."""
    price_texts_per_level: int = Field(8, ge=1)
    """Held-out texts per level on which the price of steering is measured."""
    fail_over: float = Field(0.05, ge=0, le=1)
    """Share of test rows that may end without a score."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of all intervals."""
    resamples: int = Field(10_000, ge=100)
    """Bootstrap resamples and random sign flips."""
