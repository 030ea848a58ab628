"""Where the tasks of the battery register, and what a task is.

A task is one file in `tasks/` with one class under `@task("name")`. The files are found, there is no list to edit. A
task gives questions that bring their own prompts, answers and metric; each falls into one of the task's categories, and
`count` is that of each category. The same seed gives the same questions, and more of them only add.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

from ...core.registry import Registry
from ...datasets.records import Question

PREFIX = "battery_"


class Task(ABC):
    """What a task says about itself. One instance serves the whole process and keeps no state."""

    name: ClassVar[str] = ""  # set by the decorator
    asks: ClassVar[str]  # what it tests, in a few words
    max_new_tokens: ClassVar[int] = 16  # longest answer
    needs_file: ClassVar[str] = ""  # the option that names the file it reads; "" for none

    @abstractmethod
    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """`count` questions of each category, their ids unique within the task."""

    def rng(self, seed: int, *what: object) -> Random:
        """Randomness of its own for `what` of this task."""
        return Random("-".join(map(str, ("battery", self.name, seed, *what))))

    def made(self, questions: Sequence[Question]) -> list[Question]:
        """`questions` as those of this task."""
        return [
            dataclasses.replace(question, dataset=PREFIX + self.name, id=f"battery-{self.name}-{question.id}")
            for question in questions
        ]


TASKS: Registry[Task] = Registry("battery task", "task", __name__, ".tasks")
task, task_names, find_task = TASKS.instance, TASKS.names, TASKS.get


def task_of(dataset: str) -> str:
    """The task of a question by its data set."""
    return dataset.removeprefix(PREFIX)
