"""Where answer metrics register, and the one type they return.

A metric is one file in this folder with one class under `@metric("name")`: `score` judges one prediction, `evaluate`
gives the official script's result for a whole file. The files are found, there is no list to edit.
Nothing in this package does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

from ...core.errors import InputError
from ...core.registry import Registry


@dataclass(frozen=True, slots=True)
class Score:
    """The judgement of one prediction, every value a fraction in [0, 1]; None where a metric has no such value.

    `em` exact match, `f1`/`prec`/`recall` token overlap, `sp_*` supporting facts, `joint_*` answer and supporting
    facts together, `contains` the answer stands somewhere in the text, `long_em`/`short_em` the spans of Natural
    Questions. Percentages exist only in corpus results whose official script prints percentages.
    """

    em: float | None = None
    f1: float | None = None
    prec: float | None = None
    recall: float | None = None
    sp_em: float | None = None
    sp_f1: float | None = None
    sp_prec: float | None = None
    sp_recall: float | None = None
    joint_em: float | None = None
    joint_f1: float | None = None
    joint_prec: float | None = None
    joint_recall: float | None = None
    contains: float | None = None
    long_em: float | None = None
    short_em: float | None = None


@dataclass(frozen=True)
class Example:
    """A case that a metric is tried on, in its contract and by who reads it.

    right: a prediction that has `score` against `gold`; wrong: one that has 0 wherever `score` says something. The file
    `predictions` has `result`, among other values, against `references`; where they are left out it is the right
    prediction of one question. per_second: predictions that one core judges in a second, at least.
    """

    gold: Any
    right: Any
    wrong: Any
    score: Score
    result: Mapping[str, float]
    predictions: Any = None
    references: Any = None
    per_second: int = 10_000

    @property
    def file(self) -> tuple[Any, Any]:
        """Predictions and references."""
        return self.predictions or {"1": self.right}, self.references or {"1": self.gold}


class Metric(Protocol):
    """What a registered class offers; both methods may take keyword-only arguments of their own.

    Equal arguments give equal results, and are not changed. Whatever is no prediction, gold or file is an InputError.
    """

    example: ClassVar[Example]

    def score(self, prediction: Any, gold: Any) -> Score:
        """The judgement of one prediction against what the data set holds as its answer."""
        ...

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """The official corpus result: official schema in, official keys and units out, finite numbers from 0."""
        ...


METRICS: Registry[Any] = Registry("answer metric", "metric", __name__)
metric, names, find = METRICS.instance, METRICS.names, METRICS.get


def is_record(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether `value` is a mapping, as the records of every data set are."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether `value` is several things in a row; a text, bytes and a record are one."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def text_of(value: Any, what: str) -> str:
    """`value` if it is a text: a missing or non-text prediction is never scored as if it were an empty one.

    Raises InputError where it is none; `what` is what the message calls it.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} must be a text, not {type(value).__name__}; leave a missing prediction out")
    return value


def texts_of(value: Any, what: str) -> list[str]:
    """`value` as a list of texts: a list of them, or a single one. Raises InputError where it is neither."""
    if isinstance(value, str):
        return [value]
    if not is_list(value):
        raise InputError(f"{what} must be a text or a list of texts, not {type(value).__name__}")
    texts = list(value)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{what} must be a list of texts, and one of them is {type(text).__name__}")
    return texts


def mapping_of(value: Any, what: str) -> Mapping[str, Any]:
    """`value` if it is a mapping: of a list, `in` would find no prediction and everything would score 0.

    Raises InputError where it is none.
    """
    if not is_record(value):
        raise InputError(f"{what} must be a mapping, not {type(value).__name__}")
    return value


def records_of(value: Any, what: str) -> list[Any]:
    """`value` as a list of records, whatever they are. Raises InputError where it is none, as a mapping or a text."""
    if not is_list(value):
        raise InputError(f"{what} must be a list of records, not {type(value).__name__}")
    return list(value)


def scores_unanswerable(name: str) -> bool:
    """Whether the metric `name` judges questions without any answer, for which saying nothing is right.

    Raises UsageError where there is no such metric.
    """
    return bool(getattr(find(name), "scores_unanswerable", False))
