"""The questions of the battery, for whoever asks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import UsageError
from ...datasets.prompting.prompts import render
from ...datasets.records import Question
from ..asked_spans import spans_at
from .task import find_task, task_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PER_TASK = 50  # questions of each category


def chosen_tasks(tasks: Sequence[str] | None, lambada: str | Path | None = None) -> list[str]:
    """The names of `tasks`; None is every task, those that read a file only where it is given.

    Raises UsageError for an unknown name, a name given twice, or a task whose file is missing.
    """
    if tasks is None:
        return [name for name in task_names() if lambada is not None or not find_task(name).needs_file]
    if not tasks or len(set(tasks)) != len(tasks):
        raise UsageError("name at least one task of the battery, and none twice")
    for name in tasks:
        if (option := find_task(name).needs_file) and lambada is None:
            raise UsageError(f"the task {name} reads a file; name it with {option} FILE")
    return list(tasks)


def questions(
    tasks: Sequence[str] | None = None,
    per_task: int = PER_TASK,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    lambada: str | Path | None = None,
) -> list[Question]:
    """`per_task` questions of every category of `tasks`, task by task.

    tokenizer: to count the tokens of the prompts and, where the evidence is known, those between it and the question.
    lambada: the file of the task of that name. Raises UsageError as `chosen_tasks` and for a number below 1, InputError
    for a file that is none.
    """
    if per_task < 1:
        raise UsageError(f"a category of the battery needs at least one question, not {per_task}")
    file = None if lambada is None else Path(lambada)
    names = chosen_tasks(tasks, lambada)
    made = [q for name in names for task in [find_task(name)] for q in task.made(task.questions(per_task, seed, file))]
    return made if tokenizer is None else [_counted(question, tokenizer) for question in made]


def _counted(question: Question, tokenizer: PreTrainedTokenizerFast) -> Question:
    """`question` with the numbers of tokens that `tokenizer` makes of its prompt."""
    from ...models.decoding.text import encode_text

    prompt = render(question, partial(encode_text, tokenizer), 1 << 30)
    spans = spans_at(question, prompt)
    start = spans["question_at"][0][0] if spans["question_at"] else len(prompt.tokens)
    behind = tuple(max(0, start - end) for _, end in spans["evidence_at"])
    return dataclasses.replace(question, context_tokens=len(prompt.tokens), evidence_tokens=behind)
