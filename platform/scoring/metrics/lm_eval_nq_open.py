"""lm-evaluation-harness's nq_open: exact match with any answer, without Unicode normalisation.

The continuation ends at a newline, a full stop or a comma and is stripped. Articles go first, by a pattern that knows
a few spellings only and needs a space behind the article; then both sides are lower-cased and lose punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .harness import HarnessTask, exact_match, stop_at
from .lm_eval_triviaqa import STOPS
from .metric import Example, Score, metric, texts_of

_ARTICLE = re.compile(r"\b(?:The |the |An |A |The |a |an )")


@metric("lm_eval_nq_open")
class LmEvalNQOpen(HarnessTask):
    """Gold: the list of answers; InputError without one."""

    reported, id_field = {"exact_match": "em"}, "question"
    example = Example(
        gold=["The Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0),
        result={"exact_match": 1.0},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """em is 1.0 where an answer is met; f1 is None."""
        answers = texts_of(gold, "the NQ-Open answers")
        if not answers:
            raise InputError("an NQ-Open question needs at least one answer")
        predicted = _ARTICLE.sub("", stop_at(prediction, STOPS).strip())
        return Score(em=exact_match(predicted, [_ARTICLE.sub("", answer) for answer in answers]))

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """The list of answers."""
        return document["answer"]
