"""MuSiQue: answer EM and F1 with the base normaliser, support F1, and the sufficiency groups of the Full version.

The answer is judged against the answer and its aliases; prediction and gold both empty have EM 1 and F1 1. Supports
are paragraph indices as integers, compared as sets; two empty sets have 1. In a file the averages are over answerable
instances only and rounded to 3 decimals. As soon as one instance is unanswerable, the file is the Full version: each
question stands in it twice, and a group score is the score of its answerable instance if the predicted flags of both,
in file order, equal the true ones, and 0 otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...core.errors import InputError, UsageError
from .metric import Example, Score, metric, records_of, text_of, texts_of
from .normalize import Overlap, best_with_no_answer, normalise


@metric("musique")
class MuSiQue:
    """Gold: the list of the answer and its aliases. Raises InputError for what is no prediction, gold or file, and
    UsageError for one kind of supports alone."""

    example = Example(
        gold=["Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"answer_f1": 1.0, "answer_em": 1.0, "support_f1": 1.0},
        predictions=[
            {"id": "1", "predicted_answer": "x", "predicted_support_idxs": [0], "predicted_answerable": True}
        ],
        references=[{
            "id": "1", "answer": "x", "answer_aliases": [], "answerable": True,
            "paragraphs": [{"idx": 0, "is_supporting": True}],
        }],
    )  # fmt: skip

    def score(
        self,
        prediction: str,
        gold: Sequence[str] | str,
        *,
        predicted_supports: Iterable[int] | None = None,
        gold_supports: Iterable[int] | None = None,
    ) -> Score:
        """EM and F1 of the answer; with both keyword arguments (paragraph indices) also the scores of the supports."""
        golds = texts_of(gold, "the MuSiQue answers")
        if not golds:
            raise InputError("a MuSiQue question needs its answer: a list of the answer and its aliases")
        em, f1 = best_with_no_answer(normalise(text_of(prediction, "a prediction")), [normalise(g) for g in golds])
        if predicted_supports is None and gold_supports is None:
            return Score(em=em, f1=f1)
        if predicted_supports is None or gold_supports is None:
            raise UsageError("give both predicted_supports and gold_supports, or neither")
        sp_em, sp = _supports(predicted_supports, gold_supports)
        return Score(em=em, f1=f1, sp_em=sp_em, sp_f1=sp.f1, sp_prec=sp.prec, sp_recall=sp.recall)

    def evaluate(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """`predictions`: records of id, predicted_answer, predicted_support_idxs, predicted_answerable, in the order
        of `references`, which are records of the data set. A missing or displaced record is refused.

        -> answer_f1, answer_em, support_f1; for the Full version also group_answer_sufficiency_f1 and
        group_support_sufficiency_f1. Fractions.
        """
        instances = _instances(predictions, references)
        full = not all(instance.answerable for instance in instances)
        groups = _groups(instances) if full else []
        scored = [self._scored(instance) for instance in instances if instance.answerable]
        result = {
            "answer_f1": _mean(score.f1 for score in scored),
            "answer_em": _mean(score.em for score in scored),
            "support_f1": _mean(score.sp_f1 for score in scored),
        }
        if full:
            grouped = [self._scored(group.answerable) if group.flags_right else _NOTHING for group in groups]
            result["group_answer_sufficiency_f1"] = _mean(score.f1 for score in grouped)
            result["group_support_sufficiency_f1"] = _mean(score.sp_f1 for score in grouped)
        return result

    def _scored(self, instance: _Instance) -> Score:
        return self.score(
            instance.predicted_answer,
            instance.answers,
            predicted_supports=instance.predicted_supports,
            gold_supports=instance.supports,
        )


_NOTHING = Score(f1=0.0, sp_f1=0.0)


def _mean(values: Iterable[float | None]) -> float:
    known = [value or 0.0 for value in values]
    return round(sum(known) / len(known), 3)


class _Instance(NamedTuple):
    """One line of the two files."""

    id: str
    answers: list[str]
    supports: list[Any]
    answerable: Any
    predicted_answer: str
    predicted_supports: list[Any]
    predicted_answerable: Any


def _instances(predictions: Any, references: Any) -> list[_Instance]:
    predicted, gold = records_of(predictions, "MuSiQue predictions"), records_of(references, "MuSiQue references")
    if not gold:
        raise InputError("the MuSiQue references hold no question; give the list of official records")
    if len(predicted) != len(gold):
        raise InputError(
            f"there are {len(predicted)} MuSiQue predictions for {len(gold)} references; the official script "
            "wants one for each, in the same order"
        )
    return [_instance(line, p, g) for line, (p, g) in enumerate(zip(predicted, gold, strict=True), 1)]


def _instance(line: int, predicted: Mapping[str, Any], gold: Mapping[str, Any]) -> _Instance:
    try:
        if gold["id"] != predicted["id"]:
            raise InputError(
                f"MuSiQue record {line}: the prediction is for {predicted['id']!r} and the reference is "
                f"{gold['id']!r}; both must come in the same order"
            )
        return _Instance(
            id=str(gold["id"]),
            answers=[gold["answer"], *gold["answer_aliases"]],
            supports=[paragraph["idx"] for paragraph in gold["paragraphs"] if paragraph["is_supporting"]],
            answerable=gold["answerable"],
            predicted_answer=text_of(predicted["predicted_answer"], f"the predicted answer for {gold['id']!r}"),
            predicted_supports=predicted["predicted_support_idxs"],
            predicted_answerable=predicted["predicted_answerable"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"MuSiQue record {line} is not in the official schema (id, answer, answer_aliases, paragraphs, answerable; "
            f"id, predicted_answer, predicted_support_idxs, predicted_answerable): {error!r}"
        ) from error


class _Group(NamedTuple):
    """The two instances of a question: the answerable one, and whether both predicted flags are right."""

    answerable: _Instance
    flags_right: bool


def _groups(instances: Sequence[_Instance]) -> list[_Group]:
    pairs: dict[str, list[_Instance]] = {}
    for instance in instances:
        pairs.setdefault(instance.id, []).append(instance)
    for question_id, pair in pairs.items():
        answerable = sum(bool(i.answerable) for i in pair)
        if (len(pair), answerable) != (2, 1):
            raise InputError(
                f"the Full version of MuSiQue has each question twice, once answerable; {question_id!r} stands "
                f"{len(pair)} times in the file, {answerable} times answerable"
            )
    return [
        _Group(
            next(i for i in pair if i.answerable),
            [i.predicted_answerable for i in pair] == [i.answerable for i in pair],
        )
        for pair in pairs.values()
    ]


def _supports(predicted: Iterable[int], gold: Iterable[int]) -> tuple[float, Overlap]:
    predicted_set, gold_set = _indices(predicted), _indices(gold)
    if not predicted_set and not gold_set:
        return 1.0, Overlap(1.0, 1.0, 1.0)
    shared = len(predicted_set & gold_set)
    prec = shared / len(predicted_set) if predicted_set else 0.0
    recall = shared / len(gold_set) if gold_set else 0.0
    f1 = 2 * prec * recall / (prec + recall) if shared else 0.0
    return float(predicted_set == gold_set), Overlap(f1, prec, recall)


def _indices(values: Iterable[Any]) -> set[int]:
    try:
        if not isinstance(values, str):  # whose characters could pass for indices
            return {int(value) for value in values}
    except (TypeError, ValueError):
        pass
    raise InputError(f"supports must be a list of paragraph indices, not {values!r:.80}")
