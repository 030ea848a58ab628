"""SQuAD v2.0: SQuAD's exact match and F1 where a question may have no answer, and saying nothing can be right.

Accepted are the answers that do not normalise to nothing; where none is left, the empty text alone. Two empty texts
have EM 1 and F1 1. A question counts as answerable if its list of answers is not empty, whatever the texts are.

Probabilities of "no answer" are optional. Above the threshold (strictly; 1.0 unless given) the score of a question is
replaced: 1 if it is unanswerable, else 0. `best_*` tries every threshold on the scores as they were before that.

A question without a prediction: the official script leaves it out of the overall denominator and then breaks off with
a KeyError in the answerable or unanswerable part, so it has no result for such a file. Here this is an InputError;
`allow_missing=True` gives what does not depend on the missing ones: the overall part, and each part without a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError, UsageError
from .metric import Example, Score, mapping_of, metric, text_of, texts_of
from .normalize import best_with_no_answer, normalise
from .squad_v1 import questions

THRESHOLD = 1.0


@metric("squad_v2")
class SquadV2:
    """Gold: the list of answer texts of one question; empty for an unanswerable one."""

    scores_unanswerable = True
    example = Example(
        gold=["Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"exact": 50.0, "f1": 50.0, "total": 2, "HasAns_exact": 0.0, "NoAns_exact": 100.0},
        predictions={"a": "y", "b": ""},
        references={"data": [{"paragraphs": [{"qas": [
            {"id": "a", "answers": [{"text": "x"}]}, {"id": "b", "answers": []},
        ]}]}]},
    )  # fmt: skip

    def score(
        self,
        prediction: str,
        gold: Sequence[str] | str,
        *,
        na_prob: float | None = None,
        na_threshold: float = THRESHOLD,
    ) -> Score:
        """EM and F1 against the best of `gold`, or the score of "no answer" where `na_prob` is above the threshold."""
        answers = texts_of(gold, "the answers")
        predicted = normalise(text_of(prediction, "a prediction"))
        if na_prob is not None and _number(na_prob, "na_prob") > na_threshold:
            nothing = float(not answers)
            return Score(em=nothing, f1=nothing)
        golds = [text for text in map(normalise, answers) if text] or [""]
        em, f1 = best_with_no_answer(predicted, golds)
        return Score(em=em, f1=f1)

    def evaluate(
        self,
        predictions: Mapping[str, str],
        references: Any,
        *,
        na_probs: Mapping[str, float] | None = None,
        na_threshold: float | None = None,
        allow_missing: bool = False,
    ) -> dict[str, float]:
        """`predictions`: question id -> text. `references`: the official file, or its list of articles.

        -> exact, f1 (percent), total; the same as HasAns_* and NoAns_*; with `na_probs` (question id -> probability
        of no answer) also best_exact, best_exact_thresh, best_f1, best_f1_thresh.
        """
        golds = dict(questions(references))
        return corpus(golds, predictions, na_probs, na_threshold, allow_missing=allow_missing)


def corpus(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float] | None,
    na_threshold: float | None = None,
    *,
    allow_missing: bool = False,
) -> dict[str, float]:
    """The official result from question id -> answer texts. Raises InputError for questions without a prediction or a
    probability, UsageError for a threshold without probabilities."""
    mapping_of(predictions, "SQuAD predictions (question id -> text)")
    if na_probs is None and na_threshold is not None:
        raise UsageError("na_threshold needs na_probs: without probabilities there is nothing to compare it with")
    scored = [i for i in golds if i in predictions]
    _refuse_gaps(golds, scored, na_probs, allow_missing)
    metric = SquadV2()
    raw = {i: metric.score(text_of(predictions[i], f"the prediction for {i!r}"), golds[i]) for i in scored}
    exact, f1 = ({i: getattr(score, part) or 0.0 for i, score in raw.items()} for part in ("em", "f1"))
    answerable = {i: bool(texts) for i, texts in golds.items()}
    threshold = THRESHOLD if na_threshold is None else na_threshold

    def final(scores: Mapping[str, float], i: str) -> float:
        if na_probs is not None and _number(na_probs[i], f"the probability for {i!r}") > threshold:
            return float(not answerable[i])
        return scores[i]

    result: dict[str, float] = {}
    for prefix, members in (
        ("", scored),
        ("HasAns_", [i for i in golds if answerable[i]]),
        ("NoAns_", [i for i in golds if not answerable[i]]),
    ):
        if members and all(i in raw for i in members):
            result[f"{prefix}exact"] = 100.0 * sum(final(exact, i) for i in members) / len(members)
            result[f"{prefix}f1"] = 100.0 * sum(final(f1, i) for i in members) / len(members)
            result[f"{prefix}total"] = len(members)
    if na_probs is not None:
        for name, scores in (("best_exact", exact), ("best_f1", f1)):
            result[name], result[f"{name}_thresh"] = _best(scores, predictions, na_probs, answerable)
    return result


def _best(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """Best score in percent and its threshold. Ties in probability keep the order of `na_probs`; a prediction of
    spaces alone counts as an answer."""
    current = best = float(sum(not has_answer for has_answer in answerable.values()))
    threshold = 0.0
    for i in sorted(na_probs, key=na_probs.__getitem__):
        if i not in scores:
            continue
        current += scores[i] if answerable[i] else -float(predictions[i] != "")
        if current > best:
            best, threshold = current, na_probs[i]
    return 100.0 * best / len(scores), threshold


def _refuse_gaps(
    golds: Mapping[str, Any], scored: Sequence[str], na_probs: Mapping[str, float] | None, allow_missing: bool
) -> None:
    if not golds:
        raise InputError("the SQuAD references hold no question; give the official file with its articles")
    if not scored:
        raise InputError("none of the SQuAD questions has a prediction; predictions are keyed by question id")
    if len(scored) < len(golds) and not allow_missing:
        known = set(scored)
        first = next(i for i in golds if i not in known)
        raise InputError(
            f"{len(golds) - len(scored)} of {len(golds)} questions have no prediction, the first is {first!r}; the "
            "official SQuAD v2.0 script gives no result then. Predict an empty text where there is no answer, or pass "
            "allow_missing=True for the result without these questions"
        )
    if na_probs is not None:
        mapping_of(na_probs, "na_probs (question id -> probability)")
        if without := [i for i in scored if i not in na_probs]:
            raise InputError(
                f"{len(without)} predictions have no probability of no answer, the first is {without[0]!r}"
            )


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} must be a number, not {type(value).__name__}")
    return value
