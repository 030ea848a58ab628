"""The battery: what a model can do, task by task, steered and not.

    table = assess(load("tiny-mamba"), tasks=["levels", "needle"], per_task=50)
    print(in_words(table))

`questions` gives the questions themselves, which the ordinary evaluation can ask like any others.
"""

from __future__ import annotations

from .asking import questions
from .assessing import BATTERY_SCHEMA, answers, assess, in_words, summarise
from .task import Task, task_names

__all__ = ["BATTERY_SCHEMA", "Task", "answers", "assess", "in_words", "questions", "summarise", "task_names"]
