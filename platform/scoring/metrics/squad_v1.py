"""SQuAD v1.1: exact match and token F1 after the base normaliser, the better of the human answers for each.

Oddity kept from the official script: where prediction and answer both normalise to nothing, EM is 1 and F1 is 0.
A question without a prediction scores 0 and stays in the denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .metric import Example, Score, is_record, mapping_of, metric, text_of, texts_of
from .normalize import best_over_golds, normalise


@metric("squad_v1")
class SquadV1:
    """Gold: the list of answer texts of one question. Raises InputError for what is no prediction, gold or file."""

    example = Example(
        gold=["Denver Broncos", "The Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina",
        score=Score(em=1.0, f1=1.0), result={"exact_match": 100.0, "f1": 100.0}, predictions={"a": "x"},
        references={"data": [{"paragraphs": [{"qas": [{"id": "a", "answers": [{"text": "x"}]}]}]}]},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """EM and F1 against the best of `gold`; a single text counts as a list of one."""
        golds = texts_of(gold, "the answers")
        if not golds:
            raise InputError("a SQuAD v1.1 question needs at least one answer text; v2.0 has a metric of its own")
        em, f1 = best_over_golds(normalise(text_of(prediction, "a prediction")), [normalise(g) for g in golds])
        return Score(em=em, f1=f1)

    def evaluate(self, predictions: Mapping[str, str], references: Any) -> dict[str, float]:
        """`predictions`: question id -> text. `references`: the official file, or its list of articles.

        -> {exact_match, f1} in percent over all questions.
        """
        mapping_of(predictions, "SQuAD predictions (question id -> text)")
        exact_match = f1 = 0.0
        total = 0
        for question_id, golds in questions(references):
            total += 1
            if question_id in predictions:
                score = self.score(text_of(predictions[question_id], f"the prediction for {question_id!r}"), golds)
                exact_match += score.em or 0.0
                f1 += score.f1 or 0.0
        if total == 0:
            raise InputError("the SQuAD references hold no question; give the official file with its articles")
        return {"exact_match": 100.0 * exact_match / total, "f1": 100.0 * f1 / total}


def questions(references: Any) -> Iterator[tuple[str, list[str]]]:
    """(id, answer texts) of every question in the official file of either version, or in its list of articles.

    Raises InputError for another schema.
    """
    try:
        articles = references["data"] if is_record(references) else references
        for article in articles:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    yield qa["id"], [answer["text"] for answer in qa["answers"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the references are not in the official SQuAD schema (data > paragraphs > qas > answers): {error!r}"
        ) from error
