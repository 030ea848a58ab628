"""lm-evaluation-harness's squadv2: the official v2.0 comparison of a text that ends at a newline.

The harness takes the probability of the text " unanswerable" for that of no answer and keeps the threshold 1.0, which
no probability exceeds; only best_exact and best_f1 use it. A model that writes "unanswerable" scores 0 on unanswerable
questions, because their gold is the empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.errors import InputError
from .harness import stop_at
from .metric import Example, Score, metric, texts_of
from .squad_v2 import SquadV2, corpus

REPORTED = (
    "exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1",
)  # fmt: skip


@metric("lm_eval_squadv2")
class LmEvalSquadV2:
    """Gold: the list of answer texts; empty for an unanswerable question."""

    scores_unanswerable = True
    example = Example(
        gold=["Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"exact": 100.0, "f1": 100.0, "HasAns_exact": 100.0, "best_f1": 100.0},
        predictions=[{"id": "1", "prediction_text": "x", "no_answer_probability": 0.5}],
        references=[{"id": "1", "answers": {"text": ["x"]}}],
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """EM and F1 of the text before the first newline."""
        return SquadV2().score(stop_at(prediction, "\n"), gold)

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """`predictions`: records of id, prediction_text, no_answer_probability; `references`: records of id and
        answers {text: [...]}, as the Hugging Face metric squad_v2 takes them.

        -> exact, f1, HasAns_exact, HasAns_f1, NoAns_exact, NoAns_f1, best_exact, best_f1 in percent; of a kind of
        question that does not occur there is no value, where the harness writes 0. Raises InputError for other records.
        """
        golds: dict[str, list[str]] = {}
        texts: dict[str, str] = {}
        probabilities: dict[str, float] = {}
        try:
            for record in references:
                golds[record["id"]] = texts_of(record["answers"]["text"], f"the answers of {record['id']!r}")
            for record in predictions:
                texts[record["id"]] = stop_at(record["prediction_text"], "\n")
                probabilities[record["id"]] = record["no_answer_probability"]
        except (KeyError, TypeError) as error:
            raise InputError(
                "lm_eval_squadv2 needs records {id, prediction_text, no_answer_probability} and references "
                f"{{id, answers: {{text: [...]}}}}: {error!r}"
            ) from error
        result = corpus(golds, texts, probabilities)
        return {key: result[key] for key in REPORTED if key in result}
