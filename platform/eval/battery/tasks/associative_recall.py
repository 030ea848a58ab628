"""Multi-query associative recall: pairs of names, then several of the first names again, each with its second.

    Bekfas: Kanbim          the pairs, in random order
    Gosgol: Fidnor
    ...
    Gosgol: Fidnor          queries that are answered already
    Bekfas:                 the one that is asked

After Arora et al., Zoology (2023): one lookup is easier than several in one text. The asked query is one of the first
`QUERIES`, drawn anew for each text, so that the questions of a category are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....datasets.facts.names import entities
from ....datasets.records import Paragraph, Question, Support
from ..task import Task, task

PAIRS = (4, 8, 16, 32)
QUERIES = 4


@task("associative_recall")
class AssociativeRecall(Task):
    """Categories: recall_4 to recall_32, by the number of pairs."""

    asks = "the second of a pair, given the first"

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """Names of the facts world's evaluation split; every name has its leading space."""
        return [self._question(pairs, number, seed) for pairs in PAIRS for number in range(count)]

    def _question(self, pairs: int, number: int, seed: int) -> Question:
        rng, names = self.rng(seed, pairs, number), entities("eval")
        keys, values = rng.sample(names["person"], pairs), rng.sample(names["place"], pairs)
        lines = [f"{key}:{value}" for key, value in zip(keys, values, strict=True)]
        queries = rng.sample(range(pairs), rng.randint(1, min(QUERIES, pairs)))
        asked = queries[-1]
        before = [*lines, *(lines[query] for query in queries[:-1])]
        return Question(
            id=f"{pairs}-{number:04d}",
            dataset="",
            split="eval",
            question=f"{keys[asked].strip()}:",
            context=(Paragraph("", tuple(line.strip() for line in lines)),),
            answers=(values[asked].strip(),),
            metric="squad_v1",
            supporting_facts=(Support(0, asked),),
            category=f"recall_{pairs}",
            n_facts=pairs,
            reason=f"pairs={pairs} queries_before={len(queries) - 1}",
            prompt="\n".join([*before, f"{keys[asked]}:"]),
        )
