"""A needle at a distance: one stated fact, and the question about it after more and more other facts.

All texts of a question are equally long and hold the same sentences; only the place of the needle differs, so that
what is measured is distance and not length. Distances are in tokens of the shipped tokenizer, from the end of the
needle to the question; `Question.distance_tokens` counts what there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ....datasets import facts
from ....datasets.records import Question
from ..task import Task, task

DISTANCES = (0, 64, 128, 256, 512)


@task("needle")
class Needle(Task):
    """Categories: needle_0 to needle_512, the same questions in each. Raises UsageError for too many questions."""

    asks = "one fact of the prompt, at a growing distance"

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """Of one hop."""
        made = facts.prompts(count, seed, distances=DISTANCES, stream="battery-needle")
        return [
            dataclasses.replace(
                question,
                category=f"needle_{question.distance_target}",
                level=None,
                derived_from="",
                group=question.group or question.derived_from,
            )  # fmt: skip
            for question in made
            if question.level == 1
        ]
