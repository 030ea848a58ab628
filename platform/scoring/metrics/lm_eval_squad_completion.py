"""lm-evaluation-harness's squad_completion, swde and fda: the recall tasks of the linear-attention papers.

A text is continued, and `contains` is 1 where the answer stands in the continuation, upper and lower case alike and
nothing normalised. The continuation ends at a newline (the harness lets it have 48 tokens). The gold is stripped, as
since version 1 of the tasks; numbers of version 0 do not compare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .harness import HarnessTask, stop_at
from .metric import Example, Score, metric, texts_of


@metric("lm_eval_fda")
@metric("lm_eval_swde")
@metric("lm_eval_squad_completion")
class LmEvalSquadCompletion(HarnessTask):
    """Gold: the answer; of a list the first one alone. InputError without one."""

    reported, id_field = {"contains": "contains"}, "doc_id"
    example = Example(
        gold="Denver Broncos", right="the Denver Broncos", wrong="Carolina", score=Score(contains=1.0),
        result={"contains": 1.0},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """`contains`; em and f1 are None. A gold of white space stands in every text, an empty one included."""
        golds = texts_of(gold, "the answer of a completion")
        if not golds:
            raise InputError("a completion needs an answer")
        match = re.search(re.escape(golds[0].strip()), stop_at(prediction, "\n"), re.IGNORECASE)
        return Score(contains=float(match is not None))

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """The value that the text is to be continued with."""
        return document["value"]
