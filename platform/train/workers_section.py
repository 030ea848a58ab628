"""The section `workers` of a training configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from ..core.config import Config
from ..core.option import Option

MOST_WORKERS = 4096


class WorkersSection(Config):
    """Processes that share the rows of every batch. How many there are changes no number but for its rounding."""

    count: Annotated[
        str,
        Option("--workers", "N|N-M", "Processes that share each batch, under Ray; 2-4: as many of them as fit."),
    ] = Field(default="1", description="how many; 2-4: as many of them as can be had, also after a failure")
    max_failures: Annotated[int, Option(help="Losses of workers after which the run is given up.")] = Field(
        default=3, ge=0, le=10**6, description="losses of workers from which the run goes on at its last checkpoint"
    )
    fsdp: bool = Field(
        default=False, description="each worker keeps a share of weights, gradients and moments, not a copy"
    )

    @field_validator("count", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or (found := re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())) is None:
            raise ValueError("must be a number of workers, or a range such as 2-4")
        fewest, most = int(found[1]), int(found[2] or found[1])
        if not 1 <= fewest <= most <= MOST_WORKERS:
            raise ValueError(f"must be from 1 to {MOST_WORKERS}, and a range must not fall")
        return text.strip()

    @property
    def fewest(self) -> int:
        """Workers without which the run does not go on."""
        return int(self.count.partition("-")[0])

    @property
    def most(self) -> int:
        """Workers that it takes where they can be had."""
        return int(self.count.rpartition("-")[2])
