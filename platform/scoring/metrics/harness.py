"""What the variants of lm-evaluation-harness have in common: stop sequences, its exact match, means over documents.

Their names begin with `lm_eval_`, and their numbers do not compare with the official ones. A prediction is the raw
continuation: each metric cuts it at the stop sequences of its task, so a text that was generated with others is judged
as the harness would have judged it. The harness generates for every document, so a missing prediction is refused.

Whether a task has several accepted answers is decided in the harness by its first document alone. The tasks here hold a
list in every document, so that nothing depends on it.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.errors import InputError, UsageError
from .metric import Score, is_record, records_of, text_of

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)


def stop_at(continuation: Any, stops: Iterable[str]) -> str:
    """The continuation up to the first of `stops`."""
    text = text_of(continuation, "a prediction")
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """The harness's exact match of any gold with ignore_case and ignore_punctuation: articles and whitespace stay."""
    return float(bool(golds) and _bare([prediction])[0] in _bare(golds))


def _bare(texts: Sequence[str]) -> list[str]:
    """Lower case without punctuation, in an array of the width of the longest text, as the harness holds them: a text
    that lower-casing makes longer ("\u0130", I with a dot, becomes two characters) is cut there, and a NUL at the end
    is none."""
    width = max(map(len, texts))
    lowered = (text.rstrip("\0").lower()[:width] for text in texts)
    return [text.translate(_DELETE_PUNCTUATION).rstrip("\0") for text in lowered]


class HarnessTask:
    """The corpus result of a task: means of `reported` (harness key -> field of Score) over its documents.

    Raises InputError for what is no document, gold or prediction, and UsageError where a task leaves a method out.
    """

    reported: ClassVar[Mapping[str, str]]
    id_field: ClassVar[str]

    def score(self, prediction: str, gold: Any) -> Score:
        """The judgement of one continuation."""
        raise UsageError(f"{type(self).__name__} does not say how a continuation is judged")

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """What `score` takes as gold, from a document in the schema that the task loads."""
        raise UsageError(f"{type(self).__name__} does not say what the gold of a document is")

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """`references`: the task's documents, or key -> gold. `predictions`: continuations in the order of the
        documents, or by their id. -> the keys of the harness, fractions."""
        scores = [self.score(prediction, gold) for prediction, gold in self.pairs(predictions, references)]
        return {
            key: sum(getattr(score, part) or 0.0 for score in scores) / len(scores)
            for key, part in self.reported.items()
        }

    def pairs(self, predictions: Any, references: Any) -> Iterator[tuple[Any, Any]]:
        """(prediction, gold) of every document; InputError where one has no prediction."""
        golds = self._golds(references)
        if not golds:
            raise InputError("the references hold no document")
        if is_record(predictions):
            by_key: Mapping[Any, Any] = predictions
        else:
            in_order = records_of(predictions, "predictions")
            if len(in_order) != len(golds):
                raise InputError(f"there are {len(in_order)} predictions for {len(golds)} documents")
            by_key = dict(zip(golds, in_order, strict=True))
        for key, gold in golds.items():
            if key not in by_key:
                raise InputError(f"document {key!r} has no prediction; lm-evaluation-harness predicts every document")
            yield by_key[key], gold

    def _golds(self, references: Any) -> dict[Any, Any]:
        if is_record(references):
            return dict(references)
        golds: dict[Any, Any] = {}
        for number, document in enumerate(records_of(references, "references")):
            try:
                key, gold = document.get(self.id_field, number), self.gold_of(document)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise InputError(f"document {number} is not in the schema of the task: {error!r}") from error
            if key in golds:
                raise InputError(f"document {number} has the {self.id_field} {key!r} of an earlier one")
            golds[key] = gold
        return golds
