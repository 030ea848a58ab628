"""The six levels of the facts world: one to three hops among few or many facts that the prompt states.

Other questions than those that `mplat prompts` makes and `mplat eval` asks with the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....datasets import facts
from ....datasets.records import Question
from ..task import Task, task


@task("levels")
class Levels(Task):
    """Categories: those of the levels. Raises UsageError where a level has no so many questions."""

    asks = "facts of the prompt, over one to three hops"

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """Of levels 1 to 6."""
        return facts.prompts(count, seed, stream="battery")
