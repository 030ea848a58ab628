"""The settings of a refinement: which texts, by which two models they are scored, how much is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..core.config import Config
from ..core.option import Device, Option


class RefineConfig(Config):
    """Everything that decides what is kept; where it runs is not part of it."""

    data: Annotated[tuple[Path, ...], Option("FILES")] = ()
    """Texts, in this order: files or folders in The Pile's format, or your own as .txt, .jsonl, .csv, .parquet."""
    reference: Annotated[
        str | None, Option(metavar="SMALL", help="The small model: a shipped one, a folder, a hub id.")
    ] = None
    """A small model that knows what is common: what it predicts as well as the teacher teaches nothing."""
    teacher: Annotated[str | None, Option(metavar="LARGE", help="The larger model, named in the same ways.")] = None
    """The larger model."""
    reference_tokenizer: Annotated[str | None, Option(metavar="NAME|FOLDER")] = None
    """Where the small model's tokenizer is taken from; default: its own."""
    teacher_tokenizer: Annotated[str | None, Option(metavar="NAME|FOLDER")] = None
    """Where the larger model's tokenizer is taken from; default: its own."""
    keep: Annotated[float, Option(metavar="SHARE", help="Share of the chunks that is kept; default 0.5.")] = Field(
        0.5, gt=0, le=1
    )
    """Share of the chunks that is kept, of those that have a score."""
    chunk: Annotated[int, Option(metavar="TOKENS", help="Longest piece that is scored; default 256.")] = Field(
        256, ge=1
    )
    """Tokens of the teacher in the longest piece that is scored and kept as a whole."""
    batch_size: Annotated[int, Option(help="Chunks read together.")] = Field(16, ge=1)
    """Chunks read together; part of the result, because it decides the last bits."""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Option(help="Of the weights; auto: the faster one here.")
    ] = "float32"
    """Of the weights."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    fail_over: Annotated[float, Option(metavar="SHARE")] = Field(0.01, ge=0, le=1)
    """Share of bad records, and of chunks without a score, tolerated."""
