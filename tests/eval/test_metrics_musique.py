"""MuSiQue: answers with aliases, supports as sets of indices, the sufficiency groups of the Full version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics

WORDS = st.sampled_from(["the", "A", "Paris", "red", "blue", "U.S.", "!", ""])
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)
INDICES = st.lists(st.integers(0, 19), max_size=6)


def test_the_best_of_answer_and_aliases_counts() -> None:
    score = metrics.score("musique", "the US of A", ["United States", "U.S."])
    assert (score.em, score.f1) == (0.0, pytest.approx(2 / 3))
    assert metrics.score("musique", "US", ["United States", "U.S."]).em == 1.0


def test_both_empty_is_one_and_one_empty_is_zero() -> None:
    for prediction, gold, expected in (("the", "!", 1.0), ("", "Paris", 0.0), ("Paris", "the", 0.0)):
        score = metrics.score("musique", prediction, [gold])
        assert (score.em, score.f1) == (expected, expected)


def test_supports_are_sets_of_integers() -> None:
    score = metrics.score("musique", "x", ["x"], predicted_supports=["3", 3, 5.0, 7], gold_supports=[3, 4])
    assert (score.sp_em, score.sp_prec, score.sp_recall) == (0.0, pytest.approx(1 / 3), 0.5)
    assert score.sp_f1 == pytest.approx(2 * 1 / (3 + 2))
    same = metrics.score("musique", "x", ["x"], predicted_supports=["4", "3"], gold_supports=[3, 4])
    assert (same.sp_em, same.sp_f1) == (1.0, 1.0)


def test_two_empty_sets_of_supports_are_right_unlike_in_hotpotqa() -> None:
    score = metrics.score("musique", "x", ["x"], predicted_supports=[], gold_supports=[])
    assert (score.sp_em, score.sp_f1, score.sp_prec, score.sp_recall) == (1.0, 1.0, 1.0, 1.0)
    assert metrics.score("hotpotqa", "x", "x", predicted_supports=[], gold_supports=[]).sp_f1 == 0.0
    one = metrics.score("musique", "x", ["x"], predicted_supports=[], gold_supports=[1])
    assert (one.sp_em, one.sp_f1) == (0.0, 0.0)


def test_there_is_no_joint_score_and_no_support_score_without_supports() -> None:
    assert metrics.score("musique", "x", ["x"], predicted_supports=[1], gold_supports=[1]).joint_f1 is None
    assert metrics.score("musique", "x", ["x"]).sp_f1 is None


def gold(question_id: str, answer: str, supports: list[int], answerable: Any = True, aliases: Any = ()) -> dict:
    paragraphs = [{"idx": i, "title": "T", "paragraph_text": "t", "is_supporting": i in supports} for i in range(6)]
    return {
        "id": question_id, "question": "?", "answer": answer, "answer_aliases": list(aliases),
        "answerable": answerable, "paragraphs": paragraphs,
    }  # fmt: skip


def predicted(question_id: str, answer: str, supports: list[int], answerable: Any = True) -> dict:
    return {
        "id": question_id, "predicted_answer": answer, "predicted_support_idxs": supports,
        "predicted_answerable": answerable,
    }  # fmt: skip


def test_the_answerable_version_has_three_values_rounded_to_three_decimals() -> None:
    references = [gold("1", "red car", [0, 1]), gold("2", "Rome", [2, 3], aliases=["Roma"]), gold("3", "x", [4, 5])]
    predictions = [predicted("1", "red", [0]), predicted("2", "Roma", [2, 3]), predicted("3", "y", [])]
    assert metrics.evaluate("musique", predictions, references) == {
        "answer_f1": round((2 / 3 + 1) / 3, 3),
        "answer_em": 0.333,
        "support_f1": round((2 / 3 + 1) / 3, 3),
    }


def full(flags: list[tuple[Any, Any]], **order: bool) -> dict[str, float]:
    """Three questions, predicted perfectly but for the flags (answerable instance, unanswerable instance)."""
    references, predictions = [], []
    for number, (first, second) in enumerate(flags):
        name = str(number)
        pair = [
            (gold(name, "red car", [0, 1]), predicted(name, "red", [0, 1], first)),
            (gold(name, "red car", [0], False), predicted(name, "nonsense", [], second)),
        ]
        for reference, prediction in pair[::-1] if order.get("reverse") else pair:
            references.append(reference)
            predictions.append(prediction)
    return metrics.evaluate("musique", predictions, references)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_group_scores_only_if_both_flags_are_right(reverse: bool) -> None:
    result = full([(True, False), (True, True), (False, True)], reverse=reverse)
    assert result == {
        "answer_f1": 0.667, "answer_em": 0.0, "support_f1": 1.0,
        "group_answer_sufficiency_f1": round((2 / 3) / 3, 3), "group_support_sufficiency_f1": 0.333,
    }  # fmt: skip


def test_unanswerable_instances_count_in_no_average() -> None:
    result = full([(True, False)])
    assert (result["answer_f1"], result["support_f1"]) == (0.667, 1.0)


def test_flags_are_compared_as_values_so_that_one_and_zero_are_flags_and_texts_are_not() -> None:
    assert full([(1, 0)])["group_support_sufficiency_f1"] == 1.0
    assert full([("True", "False")])["group_support_sufficiency_f1"] == 0.0


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ([], [], "no question"),
        ([predicted("1", "x", [])], [gold("1", "x", []), gold("2", "y", [])], "1 MuSiQue predictions for 2"),
        ([predicted("2", "x", [])], [gold("1", "x", [])], "record 1: .*'2'.*'1'.*same order"),
        ([{"id": "1", "predicted_answer": "x"}], [gold("1", "x", [])], "record 1 .*predicted_support_idxs"),
        ([predicted("1", None, [])], [gold("1", "x", [])], "must be a text"),  # type: ignore[arg-type]
        ([predicted("1", "x", "12")], [gold("1", "x", [])], "paragraph indices"),  # type: ignore[arg-type]
        ([predicted("1", "x", ["a"])], [gold("1", "x", [])], "paragraph indices"),  # type: ignore[list-item]
        ([predicted("1", "x", [])], [gold("1", "x", [], False)], "'1' stands 1 times"),
        ({"1": "x"}, [gold("1", "x", [])], "must be a list"),
    ],
)
def test_ids_order_schema_and_groups_are_checked(predictions: Any, references: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.evaluate("musique", predictions, references)


def test_each_question_of_the_full_version_stands_twice_once_answerable() -> None:
    references = [gold("1", "x", []), gold("1", "x", []), gold("2", "x", [], False), gold("2", "x", [])]
    predictions = [predicted(r["id"], "x", []) for r in references]
    with pytest.raises(InputError, match="'1' stands 2 times in the file, 2 times answerable"):
        metrics.evaluate("musique", predictions, references)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="both"):
        metrics.score("musique", "x", ["x"], gold_supports=[1])
    with pytest.raises(InputError, match="needs its answer"):
        metrics.score("musique", "x", [])


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), INDICES, INDICES)
def test_bounds_order_and_em_one_implies_f1_one(p: str, golds: list[str], found: list[int], true: list[int]) -> None:
    score = metrics.score("musique", p, golds, predicted_supports=found, gold_supports=true)
    values = [score.em, score.f1, score.sp_em, score.sp_f1, score.sp_prec, score.sp_recall]
    assert all(0.0 <= value <= 1.0 for value in values)  # type: ignore[operator]
    assert score.f1 == 1.0 or score.em == 0.0
    assert score.sp_em == float(set(found) == set(true)) and (score.sp_f1 == 1.0) == (score.sp_em == 1.0)
    turned = metrics.score("musique", p, golds[::-1], predicted_supports=found[::-1] * 2, gold_supports=true[::-1])
    assert turned == score
