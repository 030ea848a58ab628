"""LAMBADA from a file: the last word of a passage, predicted from all that precedes it.

The file holds JSON records with a `text`, plain or packed, as the published sets do (`{"text": ...}` a line). What is
to be predicted is what lm-evaluation-harness takes, the last word by single spaces, and an answer is right where the
text goes on with it. The same seed draws the same passages of a file, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....core.errors import InputError, UsageError
from ....datasets.records import Question
from ....datasets.sources.own_files import check_kind, rows
from ....scoring.metrics.likelihood import lambada_split
from ..task import Task, task

FORM = 'LAMBADA is a .jsonl file with {"text": ...} on every line'


@task("lambada")
class Lambada(Task):
    """Category: lambada. Raises UsageError without a file, InputError for one that is none."""

    asks = "the last word of a passage"
    needs_file = "--lambada"
    max_new_tokens = 12

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """At most `count` passages."""
        if file is None:
            raise UsageError("the task lambada reads a file; name it with --lambada FILE")
        check_kind(file, FORM)
        texts: list[tuple[str, str]] = []
        for value in rows(file):
            text = value.value.get("text") if isinstance(value.value, dict) else None
            if value.problem or not isinstance(text, str):
                raise InputError(f"{file}, {value.where}: {value.problem or 'no text in it'}; {FORM}")
            texts.append((f"{file}, {value.where}", text))
        if not texts:
            raise InputError(f"{file}: holds no passage; {FORM}")
        drawn = self.rng(seed).sample(range(len(texts)), len(texts))[:count]
        return [self._question(number, *texts[number]) for number in sorted(drawn)]

    def _question(self, number: int, where: str, text: str) -> Question:
        try:
            context, word = lambada_split(text)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return Question(
            id=f"{number:05d}",
            dataset="",
            split="test",
            question="",
            answers=(word.strip(),),
            metric="begins_with",
            category="lambada",
            licence="CC BY 4.0",
            prompt=context,
        )
