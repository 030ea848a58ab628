"""The settings of `mplat steer vectors`: what is contrasted, where the model is read, how a direction is found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ...core.config import Config, Seed
from ...core.option import Device, Model, Option, Tokenizer
from ...datasets.prompting.truncation import MAX_PROMPT_TOKENS
from .fitting import FOLDS


class VectorsConfig(Config):
    """Everything that decides the vectors."""

    pairs: Annotated[Path | None, Option("PAIRS")] = None
    """Contrast pairs as .jsonl, a questions file or the items.parquet of an evaluation with --positive and --negative,
    or the word facts: questions of the facts world with and without their evidence."""
    model: Model = None
    tokenizer: Tokenizer = None
    """A folder, a tokenizer.json, a shipped model or a hub id to take the tokenizer from; default: the model's own."""
    positive: Annotated[str | None, Option(metavar="COLUMN=VALUE")] = None
    """Rows of the file that the direction leads to, such as category=two_hop or em=1."""
    negative: Annotated[str | None, Option(metavar="COLUMN=VALUE")] = None
    """Rows of the file that it leads away from."""
    control: Annotated[str, Option(metavar="NAME")] = "deleted"
    """Of facts: what is done to the text of the negative questions; see `mplat prompts --controls`."""
    per_level: Annotated[int, Option()] = Field(20, ge=1)
    """Of facts: questions for each of the six levels."""
    site: Annotated[str, Option(metavar="SITE", shows_default=True)] = "resid_post"
    """Where the model is read, a name of `mplat sites` without the block."""
    layers: Annotated[tuple[int, ...] | None, Option(metavar="0,2-4|all", blocks=True)] = None
    """Blocks to read; default: all that have the site."""
    at: Annotated[Literal["last", "evidence", "all"], Option(shows_default=True)] = "last"
    """Which tokens: the last one, or the mean over the evidence or over all."""
    method: Annotated[str, Option(metavar="NAME", shows_default=True)] = "difference_of_means"
    """How a direction is found: difference_of_means, lda, logistic_probe, pca_of_differences."""
    folds: Annotated[int, Option()] = Field(FOLDS, ge=2)
    """Folds of the held-out AUROC; texts of one group are in one fold."""
    seed: Seed = 0
    """Of the folds and of generated questions."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    batch_size: int = Field(16, ge=1)
    """Texts read together."""
    max_tokens: int = Field(MAX_PROMPT_TOKENS, ge=1)
    """Longest prompt of a questions file; longer ones are cut or left out as in eval."""

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        from .method import VECTOR_METHODS

        VECTOR_METHODS.full_name(value)
        return value
