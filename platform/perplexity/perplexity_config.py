"""The settings of a perplexity run: which documents, how they are read, how the values are summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..core.config import Config, Seed
from ..core.option import Device, Model, Option, Tokenizer


class PerplexityConfig(Config):
    """Everything that decides the tables; where it runs is not part of it."""

    data: Annotated[Path | None, Option("DATA")] = None
    """Texts: a file or folder in The Pile's format, or your own as .txt, .jsonl, .csv, .parquet."""
    model: Model = None
    tokenizer: Tokenizer = None
    """A folder, a tokenizer.json, a shipped model or a hub id to take the tokenizer from; default: the model's own."""
    method: Annotated[
        Literal["carried", "harness"],
        Option(
            help="How a long document is read: with the state carried on (the default), or in the rolling windows of "
            "lm-evaluation-harness."
        ),
    ] = "carried"
    """carried: the state goes on from window to window; harness: rolling windows of lm-evaluation-harness."""
    window: Annotated[int | None, Option(help="Tokens read at once; default 512, for harness 2048.")] = Field(
        default=None, ge=1
    )
    """Tokens read at once; default 512 for carried, where it decides only speed and memory, and 2048 for harness."""
    limit: Annotated[int | None, Option()] = Field(default=None, ge=1)
    """At most this many documents of each set."""
    seed: Seed = 0
    """Of the choice of documents and the resampling."""
    batch_size: Annotated[int, Option(help="Documents read together.")] = Field(8, ge=1)
    """Documents read together; part of the result, because it decides the last bits."""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Option(help="Of the weights; auto: the faster one here.")
    ] = "float32"
    """Of the weights."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    fail_over: Annotated[float, Option(metavar="SHARE")] = Field(0.01, ge=0, le=1)
    """Share of bad records, and of documents without a value, tolerated."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of all intervals."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of documents."""
