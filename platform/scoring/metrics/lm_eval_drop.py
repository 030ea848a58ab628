"""lm-evaluation-harness's drop: the official comparison of one text, which ends at the first full stop.

So "12.5" is judged as "12", and an answer of several spans can never have EM 1. Equal candidates are compared once,
which changes no score. With few-shot examples the harness's template shows the keys of the answer object in place of
the answers; without examples nothing is different.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .drop import ANSWER, best_candidate, candidates
from .harness import HarnessTask, stop_at
from .metric import Example, Score, is_record, metric


@metric("lm_eval_drop")
class LmEvalDROP(HarnessTask):
    """Gold: the answer object, or a list of the answer and the validated answers."""

    reported, id_field = {"em": "em", "f1": "f1"}, "query_id"
    example = Example(
        gold=[ANSWER], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"em": 1.0, "f1": 1.0}, per_second=2_000,
    )  # fmt: skip

    def score(self, prediction: str, gold: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Score:
        """EM and F1 of the text before the first full stop, as one span."""
        accepted = {tuple(texts): kind for texts, kind in candidates(gold)}
        _, em, f1 = best_candidate([stop_at(prediction, ".")], list(accepted.items()))
        return Score(em=em, f1=f1)

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """The answer and the validated ones, which Hugging Face holds as columns."""
        validated = document.get("validated_answers") or ()
        if is_record(validated):
            numbers, dates, spans = validated["number"], validated["date"], validated["spans"]
            columns = zip(numbers, dates, spans, strict=True)
            validated = [{"number": number, "date": date, "spans": texts} for number, date, texts in columns]
        return [document["answer"], *validated]
