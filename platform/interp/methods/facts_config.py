"""Which factual prompts are asked for, as settings: the same for every command that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ...core.config import Config


class FactsConfig(Config):
    """Factual prompts and how they are corrupted."""

    facts: str | None = None
    """Many prompts: known_1000, counterfact, relations, pararel, generated, a file of one of these, or of your own
    prompts, each with its answer and the `subject` or `evidence` that is corrupted."""
    data_dir: Path | None = None
    """Folder of the data files of named sets, searched by content; or one file; default: data."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many facts, drawn with `seed`; of generated ones, how many: 100 where nothing is said."""
    corruption: Literal["noise", "replacement"] = "noise"
    """Of facts: noise on the subject's embeddings, or in its place another one's of the same relation and length."""
    seed: int = Field(1, ge=0, lt=2**63)
    """Of the noise, the draw of facts, the replacements and the resampling."""
