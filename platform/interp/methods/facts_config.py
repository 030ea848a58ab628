"""Which factual prompts are asked for, as settings: the same for every command that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...core.config import Config, Seed
from ...core.option import Option


class FactsConfig(Config):
    """Factual prompts and how they are corrupted."""

    facts: Annotated[
        str | None,
        Option(
            metavar="NAME|FILE",
            help="Factual prompts for the analyses that take them: known_1000, counterfact, relations, generated, a "
            "file.",
        ),
    ] = None
    """Many prompts: known_1000, counterfact, relations, pararel, generated, a file of one of these, or of your own
    prompts, each with its answer and the `subject` or `evidence` that is corrupted."""
    data_dir: Annotated[Path | None, Option(metavar="DIR", help="Where the files of --facts NAME are.")] = None
    """Folder of the data files of named sets, searched by content; or one file; default: data."""
    limit: Annotated[int | None, Option(help="At most this many facts.")] = Field(default=None, ge=1)
    """At most this many facts, drawn with `seed`; of generated ones, how many: 100 where nothing is said."""
    corruption: Annotated[
        Literal["noise", "replacement"], Option(help="Of facts: noise, or another fact's subject in its place.")
    ] = "noise"
    """Of facts: noise on the subject's embeddings, or in its place another one's of the same relation and length."""
    seed: Seed = 1
    """Of the noise, the draw of facts, the replacements and the resampling."""
