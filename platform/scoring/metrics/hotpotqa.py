"""HotpotQA: answer, supporting-fact and joint scores, as fractions.

The answer uses the base normaliser with one extra rule: where prediction or answer is yes, no or noanswer after
normalisation and the two differ, F1, precision and recall are 0 (exact match needs no such rule). Both normalising to
nothing: EM 1, F1 0. Supporting facts are sets of (title, sentence index); two empty sets have sp_em 1 and sp_f1 0. A
predicted fact with a part more or less, or with its index as a text, is a wrong one like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...core.errors import InputError, UsageError
from .metric import Example, Score, is_list, is_record, metric, records_of, text_of
from .normalize import NO_OVERLAP, Overlap, normalise, token_overlap

_CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})
_KEYS = tuple(prefix + part for prefix in ("", "sp_", "joint_") for part in ("em", "f1", "prec", "recall"))

SupportFact = Sequence[Any]  # (title, sentence index)


@metric("hotpotqa")
class HotpotQA:
    """Gold: the one answer text.

    Raises InputError for what is no prediction, gold or official file, UsageError for one kind of supports alone.
    """

    example = Example(
        gold="Denver Broncos", right="the Denver Broncos", wrong="Carolina",
        score=Score(em=1.0, f1=1.0, prec=1.0, recall=1.0), result={"em": 1.0, "sp_f1": 1.0, "joint_recall": 1.0},
        predictions={"answer": {"1": "x"}, "sp": {"1": [["T", 0]]}},
        references=[{"_id": "1", "answer": "x", "supporting_facts": [["T", 0]]}],
    )  # fmt: skip

    def score(
        self,
        prediction: str,
        gold: str | Sequence[str],
        *,
        predicted_supports: Iterable[SupportFact] | None = None,
        gold_supports: Iterable[SupportFact] | None = None,
    ) -> Score:
        """The answer scores; with both keyword arguments also the supporting-fact and joint scores.

        A list of exactly one text is accepted as `gold`, because question records hold answers as lists.
        """
        em, answer = _answer(text_of(prediction, "a prediction"), _one(gold))
        if predicted_supports is None and gold_supports is None:
            return Score(em=em, f1=answer.f1, prec=answer.prec, recall=answer.recall)
        if predicted_supports is None or gold_supports is None:
            raise UsageError("give both predicted_supports and gold_supports, or neither")
        sp_em, sp = _supports(predicted_supports, gold_supports)
        joint_em, joint = _joint(em, answer, sp_em, sp)
        return Score(
            em=em, f1=answer.f1, prec=answer.prec, recall=answer.recall,
            sp_em=sp_em, sp_f1=sp.f1, sp_prec=sp.prec, sp_recall=sp.recall,
            joint_em=joint_em, joint_f1=joint.f1, joint_prec=joint.prec, joint_recall=joint.recall,
        )  # fmt: skip

    def evaluate(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """`predictions`: {"answer": {id: text}, "sp": {id: [[title, sentence], ...]}}; `references`: list of records.

        A question may lack either part: that part counts 0, the joint scores count only where both are there, and
        every sum is divided by the number of reference questions.
        """
        answers, supports = _parts(predictions)
        sums = dict.fromkeys(_KEYS, 0.0)
        count = 0
        for record in records_of(references, "HotpotQA references"):
            try:
                question_id, gold, gold_supports = record["_id"], record["answer"], record["supporting_facts"]
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"HotpotQA reference {count} is not in the official schema (_id, answer, supporting_facts, ...): "
                    f"{error!r}"
                ) from error
            count += 1
            em = sp_em = 0.0
            answer = sp = NO_OVERLAP
            if question_id in answers:
                em, answer = _answer(text_of(answers[question_id], f"the prediction for {question_id!r}"), _one(gold))
                _add(sums, "", em, answer)
            if question_id in supports:
                sp_em, sp = _supports(supports[question_id], gold_supports)
                _add(sums, "sp_", sp_em, sp)
            if question_id in answers and question_id in supports:
                _add(sums, "joint_", *_joint(em, answer, sp_em, sp))
        if count == 0:
            raise InputError("the HotpotQA references hold no question; give the official list of records")
        return {key: value / count for key, value in sums.items()}


def _one(gold: Any) -> str:
    golds = list(gold) if is_list(gold) else []
    return text_of(golds[0] if len(golds) == 1 else gold, "the HotpotQA answer")


def _parts(predictions: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    for part in ("answer", "sp"):
        if not is_record(predictions) or not is_record(predictions.get(part)):
            raise InputError(
                f'HotpotQA predictions need a mapping {part!r} of question ids: {{"answer": {{...}}, "sp": {{...}}}}'
            )
    return predictions["answer"], predictions["sp"]


def _answer(prediction: str, gold: str) -> tuple[float, Overlap]:
    prediction, gold = normalise(prediction), normalise(gold)
    if prediction != gold and (prediction in _CLOSED_ANSWERS or gold in _CLOSED_ANSWERS):
        return 0.0, NO_OVERLAP
    return float(prediction == gold), token_overlap(prediction.split(), gold.split())


def _supports(predicted: Iterable[SupportFact], gold: Iterable[SupportFact]) -> tuple[float, Overlap]:
    predicted_set, gold_set = _facts(predicted, "predicted"), _facts(gold, "gold")
    shared = len(predicted_set & gold_set)
    prec = shared / len(predicted_set) if predicted_set else 0.0
    recall = shared / len(gold_set) if gold_set else 0.0
    return float(predicted_set == gold_set), Overlap(_harmonic(prec, recall), prec, recall)


def _facts(facts: Iterable[SupportFact], whose: str) -> set[tuple[Any, ...]]:
    """What has another form than (title, sentence index) is a fact that is wrong."""
    try:
        return set(map(tuple, facts))
    except TypeError as error:
        raise InputError(
            f"{whose} supporting facts must be pairs of a title and a sentence index, not {facts!r:.80}"
        ) from error


def _joint(em: float, answer: Overlap, sp_em: float, sp: Overlap) -> tuple[float, Overlap]:
    prec, recall = answer.prec * sp.prec, answer.recall * sp.recall
    return em * sp_em, Overlap(_harmonic(prec, recall), prec, recall)


def _harmonic(prec: float, recall: float) -> float:
    return 2 * prec * recall / (prec + recall) if prec + recall > 0 else 0.0


def _add(sums: dict[str, float], prefix: str, em: float, overlap: Overlap) -> None:
    sums[f"{prefix}em"] += em
    for part, value in overlap._asdict().items():
        sums[prefix + part] += value
