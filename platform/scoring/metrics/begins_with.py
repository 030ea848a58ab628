"""Whether a continuation begins with an answer: for texts that go on, as LAMBADA's do after their last word.

White space before either does not count, everything else does. What follows the answer does not matter, so that
"words" begins with "word", as it does for a model whose most probable tokens are those of "word". There is no F1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .metric import Example, Score, mapping_of, metric, text_of, texts_of


@metric("begins_with")
class BeginsWith:
    """Gold: the list of answers. Raises InputError for what is none."""

    example = Example(
        gold=["Gabriel", "the angel"], right=" Gabriel, who was late", wrong="a Gabriel", score=Score(em=1.0),
        result={"accuracy": 1.0, "total": 1},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """EM against any of `gold`."""
        answers = [answer.strip() for answer in texts_of(gold, "the answers")]
        if not answers or not all(answers):
            raise InputError("a text needs at least one answer to begin with, none of them empty")
        return Score(em=float(text_of(prediction, "a prediction").lstrip().startswith(tuple(answers))))

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """Both: question -> text or texts; a question without a prediction is wrong. -> accuracy, total, missing."""
        return share_right(self, predictions, references)


def share_right(judge: Any, predictions: Any, references: Any) -> dict[str, float]:
    """The share of `references` (question -> gold) whose prediction has EM 1. Raises InputError for none."""
    predicted: Mapping[str, Any] = mapping_of(predictions, "the predictions")
    golds: Mapping[str, Any] = mapping_of(references, "the references")
    if not golds:
        raise InputError("the references hold no question")
    scores = [judge.score(predicted[question], gold).em if question in predicted else judge.score("", gold).em
              for question, gold in golds.items()]  # fmt: skip
    missing = sum(question not in predicted for question in golds)
    return {"accuracy": sum(scores) / len(golds), "total": len(golds), "missing": missing}
