"""NQ-Open (the ORQA and EfficientQA script): exact match after Unicode NFD and the base normaliser. There is no F1.

NFD makes composed and decomposed accents equal and removes none: "cafe" is not "café". A question without a
prediction is wrong and counted. The script's regular-expression mode belongs to CuratedTREC and is not offered.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError, UsageError, suggest
from .metric import Example, Score, is_record, metric, records_of, text_of, texts_of
from .normalize import normalise

ANSWER_FIELDS = ("answer", "answer_and_def_correct_predictions")


def normalise_nq(text: str) -> str:
    """NFD, then the base normaliser."""
    return normalise(text if text.isascii() else unicodedata.normalize("NFD", text))


@metric("nq_open")
class NQOpen:
    """Gold: the list of answers. Raises InputError for what is none, and for other records."""

    example = Example(
        gold=["Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0),
        result={"missing_predictions": 0, "num_correct": 1, "num_total": 1, "accuracy": 1.0},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """EM against any of `gold`; f1 is None."""
        golds = texts_of(gold, "the NQ-Open answers")
        if not golds:
            raise InputError("an NQ-Open question needs at least one answer")
        predicted = normalise_nq(text_of(prediction, "a prediction"))
        return Score(em=float(any(predicted == normalise_nq(g) for g in golds)))

    def evaluate(self, predictions: Any, references: Any, *, answer_field: str = "answer") -> dict[str, float]:
        """`predictions`: question -> text, or records of question and prediction. `references`: question -> answers,
        or records of question and `answer_field` (EfficientQA's test set has a second one with rated predictions).

        -> missing_predictions, num_correct, num_total, accuracy (a fraction). Raises UsageError for another field.
        """
        if answer_field not in ANSWER_FIELDS:
            raise UsageError(f"there is no answer field {answer_field!r}; {suggest(answer_field, ANSWER_FIELDS)}")
        golds = _by_question(references, answer_field, "references")
        predicted = _by_question(predictions, "prediction", "predictions")
        if not golds:
            raise InputError("the NQ-Open references hold no question")
        missing = correct = 0
        for question, answers in golds.items():
            answers = texts_of(answers, f"the NQ-Open answers of {question!r}")
            if question in predicted:
                prediction = text_of(predicted[question], f"the prediction for {question!r}")
                correct += self.score(prediction, answers).em == 1.0
            else:
                missing += 1
        return {
            "missing_predictions": missing,
            "num_correct": correct,
            "num_total": len(golds),
            "accuracy": correct / len(golds),
        }


def _by_question(records: Any, field: str, what: str) -> Mapping[str, Any]:
    if is_record(records):
        return records
    try:
        return {record["question"]: record[field] for record in records_of(records, f"NQ-Open {what}")}
    except (KeyError, TypeError) as error:
        raise InputError(f"NQ-Open {what} must be records of question and {field}: {error!r}") from error
