"""lm-evaluation-harness's longbench_hotpotqa, longbench_musique and longbench_triviaqa (and ruler's qa_hotpot).

Token F1 after the base normaliser, the best over the answers, 0 where there is none; two empty texts have 0. No exact
match, no yes/no rule, no supporting facts. The harness lets a continuation have 32 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .harness import HarnessTask
from .metric import Example, Score, metric, text_of, texts_of
from .normalize import normalise, token_overlap


@metric("lm_eval_longbench_qa_f1")
class LmEvalLongBenchQA(HarnessTask):
    """Gold: the list of answers."""

    reported, id_field = {"qa_f1_score": "f1"}, "_id"
    example = Example(
        gold=["The Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(f1=1.0),
        result={"qa_f1_score": 1.0},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """f1; em is None."""
        tokens = normalise(text_of(prediction, "a prediction")).split()
        golds = texts_of(gold, "the LongBench answers")
        return Score(f1=max((token_overlap(tokens, normalise(g).split()).f1 for g in golds), default=0.0))

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """The answers."""
        return document["answers"]
