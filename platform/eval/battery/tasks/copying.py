"""Copying: a line of names, to be written again after one worked example.

A recurrent state of fixed size holds only so many names (Jelassi et al., Repeat After Me, 2024); lines get longer from
category to category, and only the whole line is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....datasets.facts.names import entities
from ....datasets.records import Paragraph, Question, Support
from ..task import Task, task

WORDS = (1, 2, 4, 8, 16)


@task("copying")
class Copying(Task):
    """Categories: copy_1 to copy_16, by the number of names."""

    asks = "a line of names, word by word"
    max_new_tokens = 80  # 16 names of at most five tokens

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """Names of the facts world's evaluation split, none twice in a prompt."""
        return [self._question(words, number, seed) for words in WORDS for number in range(count)]

    def _question(self, words: int, number: int, seed: int) -> Question:
        drawn = self.rng(seed, words, number).sample(entities("eval")["person"], 2 * words)
        example, line = "".join(drawn[:words]), "".join(drawn[words:])
        return Question(
            id=f"{words}-{number:04d}",
            dataset="",
            split="eval",
            question=line.strip(),
            context=(Paragraph("", (line.strip(),)),),
            answers=(line.strip(),),
            metric="squad_v1",
            supporting_facts=(Support(0, 0),),
            category=f"copy_{words}",
            reason=f"words={words}",
            prompt=f"{example}\n{example}\n\n{line}\n",
        )
