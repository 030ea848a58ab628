"""The settings of a token folder: which texts, how they are read, by which tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..core.config import Config
from ..core.option import Option


class TextsConfig(Config):
    """Which texts are read, and how."""

    files: Annotated[tuple[str, ...], Option("FILES", parse=lambda names, option: names)] = ()
    """Texts: .jsonl, .txt, .csv, .parquet, also packed; folders, patterns, hub:NAME."""
    field: Annotated[str, Option(metavar="NAME", help="Field of a record that holds its text; default text.")] = "text"
    """Field of a record that holds its text."""
    bad_limit: Annotated[int, Option(help="Broken records to leave out, counted, before the run is refused.")] = Field(
        default=0, ge=0
    )
    """Broken records to leave out, counted, before the run is refused."""


class TokeniseConfig(TextsConfig):
    """Everything that decides a token folder; where it is made is not part of it."""

    tokenizer: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Folder with the tokenizer's files; default: tiny, that of shipped models."),
    ] = None
    """Folder with the tokenizer's files; default: that of the shipped models."""
    set_field: Annotated[
        str, Option(metavar="NAME", help="Field with the name of a record's set; default meta.pile_set_name.")
    ] = "meta.pile_set_name"
    """Field with the name of a record's set; dots lead into objects."""
    shard_mib: float = Field(16.0, gt=0, le=1024)
    """Text (MiB) that a worker reads for one part; changes no byte of the folder."""
    keep_parts: bool = False
    """Keep the parts that the folder was put together from."""
