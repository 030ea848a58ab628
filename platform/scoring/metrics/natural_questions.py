"""Natural Questions with long and short answers: spans are compared, not texts, over full records only.

A question has a gold answer if at least 2 of its annotators gave one. A long prediction is right if its span is that
of any annotator who gave one; a short one if its set of spans is that of an annotator, or its yes/no label one of
theirs. An annotator may have given both, a prediction may not. Two spans are equal by their byte offsets or by their
token offsets, whichever both have.

Precision is over questions with a prediction, recall over questions with gold. Every distinct score of a prediction is
a threshold; reported are the best F1 with its threshold, and the largest recall where precision reaches 0.5, 0.75, 0.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...core.errors import InputError
from .metric import Example, Score, is_list, is_record, metric, records_of

ANNOTATORS_NEEDED = 2
PRECISIONS = (0.5, 0.75, 0.9)
_SPAN = {"start_byte": 1, "end_byte": 9, "start_token": 0, "end_token": 2}
ANSWER = {"long_answer": _SPAN, "short_answers": [_SPAN], "yes_no_answer": "NONE"}  # of an annotator, as an example


class Span(NamedTuple):
    """Half-open offsets; -1 where there is none."""

    start_byte: int = -1
    end_byte: int = -1
    start_token: int = -1
    end_token: int = -1

    @property
    def is_null(self) -> bool:
        """No offset at all: no answer."""
        return max(self) < 0

    def equals(self, other: Span) -> bool:
        """Whether two spans that are not null are the same."""
        bytes_equal = self[:2] == other[:2] and min(self[:2]) >= 0
        return bytes_equal or (self[2:] == other[2:] and min(self[2:]) >= 0)


class Label(NamedTuple):
    """One annotator's answer, or a prediction."""

    long: Span | None
    short: list[Span]
    yes_no: str

    @property
    def has_short(self) -> bool:
        """Spans, or yes or no."""
        return bool(self.short) or self.yes_no != "none"

    def short_equals(self, gold: Label) -> bool:
        """Whether the label, or else the set of spans, is that of `gold`."""
        if self.yes_no != "none":
            return self.yes_no == gold.yes_no
        return all(any(a.equals(b) for b in gold.short) for a in self.short) and all(
            any(a.equals(b) for b in self.short) for a in gold.short
        )


class Judged(NamedTuple):
    """One question, for long or for short answers."""

    has_gold: bool
    has_prediction: bool
    right: bool
    score: float


@metric("natural_questions")
class NaturalQuestions:
    """Gold: the list of annotations of one question, original or simplified."""

    example = Example(
        gold=[ANSWER] * 5, right=ANSWER, wrong={}, score=Score(long_em=1.0, short_em=1.0),
        result={"long-best-threshold-f1": 1.0, "short-recall-at-precision>=0.9": 1.0},
        predictions={"predictions": [
            {"example_id": 1, "long_answer_score": 1.0, "short_answers_score": 1.0, **ANSWER},
        ]},
        references=[{"example_id": 1, "annotations": [ANSWER] * 5}], per_second=2_000,
    )  # fmt: skip

    def score(self, prediction: Mapping[str, Any], gold: Sequence[Mapping[str, Any]]) -> Score:
        """long_em and short_em of a prediction record; None where the question has no such gold answer."""
        long, short = judge(_prediction(prediction, "the prediction"), _gold(gold, "the question"), 0.0, 0.0)
        return Score(
            long_em=float(long.right) if long.has_gold else None,
            short_em=float(short.right) if short.has_gold else None,
        )

    def evaluate(self, predictions: Any, references: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """`predictions`: {"predictions": [{example_id, long_answer, long_answer_score, short_answers,
        short_answers_score, yes_no_answer}, ...]}; `references`: records of example_id and annotations. The ids of both
        must be the same.

        -> for long- and short-: best-threshold-f1, -precision, -recall, best-threshold, recall-at-precision>=0.5 (0.75,
        0.9) and the precision there. Fractions. Raises InputError for other files, and where the ids differ.
        """
        known = records_of(references, "Natural Questions references")
        golds = {_field(record, "example_id"): _field(record, "annotations") for record in known}
        records = records_of(_field(predictions, "predictions"), "Natural Questions predictions")
        predicted = {_field(record, "example_id"): record for record in records}
        if not golds:
            raise InputError("the Natural Questions references hold no question")
        if apart := golds.keys() ^ predicted.keys():
            raise InputError(
                f"{len(apart)} example ids are not in both gold and predictions, one is {min(apart, key=str)!r}; the "
                "official script wants the same ids in both"
            )
        long: list[Judged] = []
        short: list[Judged] = []
        for example_id, annotated in golds.items():
            record, what = predicted[example_id], f"example {example_id!r}"
            scores = float(_field(record, "long_answer_score")), float(_field(record, "short_answers_score"))
            one_long, one_short = judge(_prediction(record, what), _gold(annotated, what), *scores)
            long.append(one_long)
            short.append(one_short)
        return _curve(long, "long-") | _curve(short, "short-")


def judge(predicted: Label, golds: Sequence[Label], long_score: float, short_score: float) -> tuple[Judged, Judged]:
    """The long and the short answer of one question."""
    long_golds = [label.long for label in golds if label.long is not None]
    has_long = len(long_golds) >= ANNOTATORS_NEEDED
    has_short = sum(label.has_short for label in golds) >= ANNOTATORS_NEEDED
    long = predicted.long
    return (
        Judged(
            has_long, long is not None, long is not None and has_long and any(map(long.equals, long_golds)), long_score
        ),
        Judged(
            has_short,
            predicted.has_short,
            has_short and predicted.has_short and any(map(predicted.short_equals, golds)),
            short_score,
        ),
    )


def _curve(judged: Sequence[Judged], prefix: str) -> dict[str, float]:
    """Precision and recall at every threshold from the highest down; questions of one score come in together."""
    with_gold = sum(one.has_gold for one in judged)
    right = given = 0
    points: dict[float, tuple[float, float]] = {}
    for one in sorted(judged, key=lambda one: -one.score):
        right, given = right + one.right, given + one.has_prediction
        points[one.score] = (right / given if given else 0.0, right / with_gold if with_gold else 0.0)
    best_f1, best_precision, best_recall, best_threshold = 0.0, 0.0, 0.0, 0.0
    reached = dict.fromkeys(PRECISIONS, (0.0, 0.0))  # precision wanted -> (recall, precision)
    for threshold, (precision, recall) in points.items():
        for wanted in PRECISIONS:
            if precision >= wanted and recall > reached[wanted][0]:
                reached[wanted] = (recall, precision)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if f1 > best_f1:
            best_f1, best_precision, best_recall, best_threshold = f1, precision, recall, threshold
    result = {
        "best-threshold-f1": best_f1,
        "best-threshold-precision": best_precision,
        "best-threshold-recall": best_recall,
        "best-threshold": best_threshold,
    }
    for wanted, (recall, precision) in reached.items():
        result[f"recall-at-precision>={wanted}"] = recall
        result[f"precision-at-precision>={wanted}"] = precision
    return {prefix + key: value for key, value in result.items()}


def _gold(annotations: Any, what: str) -> list[Label]:
    if not is_list(annotations):
        raise InputError(f"{what}: annotations must be a list of records, not {type(annotations).__name__}")
    return [_label(annotation, what) for annotation in annotations]


def _label(record: Any, what: str) -> Label:
    if not is_record(record):
        raise InputError(f"{what}: an answer must be a record, not {type(record).__name__}")
    long = _span(record.get("long_answer") or {}, what)
    short = [_span(span, what) for span in record.get("short_answers") or ()]
    yes_no = str(record.get("yes_no_answer") or "none").lower()
    if yes_no not in ("yes", "no", "none"):
        raise InputError(f"{what}: yes_no_answer must be YES, NO or NONE, not {yes_no!r}")
    return Label(None if long.is_null else long, [span for span in short if not span.is_null], yes_no)


def _prediction(record: Any, what: str) -> Label:
    label = _label(record, what)
    if label.yes_no != "none" and label.short:
        raise InputError(f"{what}: a prediction is yes or no, or it has short spans, not both")
    return label


def _span(record: Any, what: str) -> Span:
    try:
        span = Span(*(int(record.get(name, -1)) for name in Span._fields))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{what}: a span has the offsets {', '.join(Span._fields)}, not {record!r:.80}") from error
    for start, end in (span[:2], span[2:]):
        if (start < 0) != (end < 0) or (start >= 0 and start >= end):
            raise InputError(f"{what}: a span from {start} to {end} is none")
    return span


def _field(record: Any, name: str) -> Any:
    if not is_record(record) or name not in record:
        raise InputError(f"Natural Questions: a record lacks {name!r}; give the official files")
    return record[name]
