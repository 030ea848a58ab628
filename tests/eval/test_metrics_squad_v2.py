"""SQuAD v2.0: no-answer rules, probabilities and thresholds, the corpus result and what a gap in the file means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics

WORDS = st.sampled_from(["the", "A", "Paris", "red", "blue", "U.S.", "!", "é", ""])
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)
GOLDS = st.lists(TEXTS, max_size=3)


def both(prediction: str, golds: Any, **kw: Any) -> tuple[float | None, float | None]:
    score = metrics.score("squad_v2", prediction, golds, **kw)
    return score.em, score.f1


def test_saying_nothing_is_right_where_there_is_no_answer_and_wrong_where_there_is_one() -> None:
    assert both("", []) == (1.0, 1.0)
    assert both("Paris", []) == (0.0, 0.0)
    assert both("", ["Paris"]) == (0.0, 0.0)


@pytest.mark.parametrize("nothing", ["", " ", "the", "A.", "!?"])
def test_two_texts_that_normalise_to_nothing_are_em_one_and_f1_one_unlike_in_version_one(nothing: str) -> None:
    assert both(nothing, []) == (1.0, 1.0)
    assert metrics.score("squad_v1", nothing, [""]).f1 == 0.0


def test_answers_that_normalise_to_nothing_are_left_out_unless_all_do() -> None:
    assert both("", ["the", "Paris"]) == (0.0, 0.0)
    assert both("", ["the", "!"]) == (1.0, 1.0)
    assert both("Paris", ["the", "Paris"]) == (1.0, 1.0)


def test_maxima_are_independent_and_the_base_normaliser_holds() -> None:
    assert both("the U.S.", ["red", "US"]) == (1.0, 1.0)
    assert both("red blue", ["red green", "red blue black"]) == (0.0, pytest.approx(4 / 5))


def test_writing_the_word_unanswerable_is_an_answer_like_any_other() -> None:
    assert both("unanswerable", []) == (0.0, 0.0)


def test_above_the_threshold_the_score_is_replaced_and_at_it_not() -> None:
    assert both("Paris", ["Paris"], na_prob=0.6, na_threshold=0.5) == (0.0, 0.0)
    assert both("wrong", [], na_prob=0.6, na_threshold=0.5) == (1.0, 1.0)
    assert both("Paris", ["Paris"], na_prob=0.5, na_threshold=0.5) == (1.0, 1.0)
    assert both("Paris", ["Paris"], na_prob=1.0) == (1.0, 1.0)


def test_a_list_of_empty_answers_counts_as_answerable_for_the_threshold() -> None:
    assert both("", ["the"]) == (1.0, 1.0)
    assert both("", ["the"], na_prob=1.0, na_threshold=0.5) == (0.0, 0.0)


def references(**golds: list[str]) -> dict[str, Any]:
    qas = [
        {"id": i, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for i, texts in golds.items()
    ]
    return {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "c", "qas": qas}]}]}


GOLD = references(a=["Paris"], b=["red blue"], c=[], d=[])
PREDICTIONS = {"a": "Paris", "b": "red", "c": "", "d": "x", "unknown": "y"}


def test_corpus_result_has_the_official_keys_in_their_order_in_percent() -> None:
    result = metrics.evaluate("squad_v2", PREDICTIONS, GOLD)
    assert result == {
        "exact": 100 * 2 / 4, "f1": pytest.approx(100 * (1 + 2 / 3 + 1) / 4), "total": 4,
        "HasAns_exact": 50.0, "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2), "HasAns_total": 2,
        "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2,
    }  # fmt: skip
    assert list(result)[:4] == ["exact", "f1", "total", "HasAns_exact"]
    assert metrics.evaluate("squad_v2", PREDICTIONS, GOLD["data"]) == result


def test_a_part_without_questions_is_not_reported() -> None:
    assert "NoAns_exact" not in metrics.evaluate("squad_v2", {"a": "Paris"}, references(a=["Paris"]))
    assert "HasAns_exact" not in metrics.evaluate("squad_v2", {"c": ""}, references(c=[]))


def test_probabilities_replace_scores_above_the_threshold() -> None:
    probs = {"a": 0.9, "b": 0.1, "c": 0.1, "d": 0.9}
    result = metrics.evaluate("squad_v2", PREDICTIONS, GOLD, na_probs=probs, na_threshold=0.5)
    assert (result["exact"], result["HasAns_exact"], result["NoAns_exact"]) == (50.0, 0.0, 100.0)
    default = metrics.evaluate("squad_v2", PREDICTIONS, GOLD, na_probs=probs)
    assert default["exact"] == metrics.evaluate("squad_v2", PREDICTIONS, GOLD)["exact"]


def test_the_best_threshold_walks_the_questions_by_rising_probability() -> None:
    """2 unanswerable at first; b (0.1): +2/3 in F1, 0 in exact; c (0.2): empty, 0; a (0.3): +1; d (0.4): a text, -1."""
    probs = {"d": 0.4, "a": 0.3, "c": 0.2, "b": 0.1, "unknown": 0.0}
    result = metrics.evaluate("squad_v2", PREDICTIONS, GOLD, na_probs=probs)
    assert (result["best_exact"], result["best_exact_thresh"]) == (100 * 3 / 4, 0.3)
    assert result["best_f1"] == pytest.approx(100 * (2 + 2 / 3 + 1) / 4)
    assert result["best_f1_thresh"] == 0.3


def test_where_nothing_is_gained_the_best_is_to_answer_nothing() -> None:
    result = metrics.evaluate("squad_v2", {"c": "x"}, references(c=[]), na_probs={"c": 0.7})
    assert (result["best_exact"], result["best_exact_thresh"]) == (100.0, 0.0)


def test_a_prediction_of_blanks_counts_as_an_answer_in_the_search_though_it_scores_as_none() -> None:
    gold = references(a=["Paris"], c=[])
    for text, best in (("", 100.0), ("  ", 50.0)):
        result = metrics.evaluate("squad_v2", {"a": "Paris", "c": text}, gold, na_probs={"c": 0.1, "a": 0.2})
        assert result["NoAns_exact"] == 100.0
        assert result["best_exact"] == best


def test_the_best_scores_are_those_before_the_threshold() -> None:
    probs = {"a": 0.9, "b": 0.1, "c": 0.1, "d": 0.2}
    low = metrics.evaluate("squad_v2", PREDICTIONS, GOLD, na_probs=probs, na_threshold=0.5)
    high = metrics.evaluate("squad_v2", PREDICTIONS, GOLD, na_probs=probs, na_threshold=1.0)
    assert low["exact"] != high["exact"] and low["best_f1"] == high["best_f1"]


def test_a_gap_is_refused_as_the_official_script_breaks_off_there() -> None:
    with pytest.raises(InputError, match="1 of 4 questions have no prediction, the first is 'b'.*allow_missing"):
        metrics.evaluate("squad_v2", {"a": "Paris", "c": "", "d": ""}, GOLD)
    with pytest.raises(InputError, match="none of the SQuAD questions"):
        metrics.evaluate("squad_v2", {}, GOLD, allow_missing=True)


def test_a_gap_leaves_the_question_out_of_the_overall_denominator_and_its_part_without_a_result() -> None:
    result = metrics.evaluate("squad_v2", {"a": "Paris", "c": "", "d": "x"}, GOLD, allow_missing=True)
    assert (result["exact"], result["total"]) == (pytest.approx(100 * 2 / 3), 3)
    assert "HasAns_exact" not in result
    assert (result["NoAns_exact"], result["NoAns_total"]) == (50.0, 2)


def test_in_the_search_a_gap_counts_at_the_start_and_not_in_the_denominator() -> None:
    gold = references(a=["Paris"], c=[], d=[])
    result = metrics.evaluate(
        "squad_v2", {"a": "Paris", "c": ""}, gold, na_probs={"a": 0.5, "c": 0.5}, allow_missing=True
    )
    assert result["best_exact"] == 100.0 * 3 / 2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"na_threshold": 0.5}, UsageError, "needs na_probs"),
        ({"na_probs": {"a": 0.1}}, InputError, "no probability of no answer, the first is 'b'"),
        ({"na_probs": [0.1]}, InputError, "must be a mapping"),
        ({"na_probs": dict.fromkeys("abcd", "0.1")}, InputError, "must be a number"),
        ({"threshold": 0.5}, UsageError, "no argument 'threshold'"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        metrics.evaluate("squad_v2", PREDICTIONS, GOLD, **changes)


@pytest.mark.parametrize(
    ("predictions", "gold"), [(["x"], GOLD), ({"a": None}, references(a=["x"])), ({}, {"data": []})]
)
def test_wrong_files_are_refused(predictions: Any, gold: Any) -> None:
    with pytest.raises(InputError):
        metrics.evaluate("squad_v2", predictions, gold)


@given(TEXTS, GOLDS)
def test_em_one_implies_f1_one_without_exception(prediction: str, golds: list[str]) -> None:
    em, f1 = both(prediction, golds)
    assert em in (0.0, 1.0) and 0.0 <= (f1 or 0.0) <= 1.0
    assert f1 == 1.0 or em == 0.0
    assert both(prediction, golds[::-1]) == (em, f1) == both(prediction, [*golds, *golds])


@given(st.lists(st.tuples(GOLDS, TEXTS, st.floats(0, 1)), min_size=1, max_size=8))
def test_the_best_of_the_search_is_never_below_saying_nothing_nor_below_any_threshold(items: list) -> None:
    gold = references(**{str(i): golds for i, (golds, _, _) in enumerate(items)})
    predictions = {str(i): text for i, (_, text, _) in enumerate(items)}
    probs = {str(i): p for i, (_, _, p) in enumerate(items)}
    result = metrics.evaluate("squad_v2", predictions, gold, na_probs=probs)
    unanswerable = sum(not golds for golds, _, _ in items)
    assert result["best_exact"] >= 100 * unanswerable / len(items) - 1e-9
    if not any(text and metrics.score("squad_v2", text, []).em for _, text, _ in items):  # blanks are an answer there
        for threshold in sorted(probs.values()):
            at = metrics.evaluate("squad_v2", predictions, gold, na_probs=probs, na_threshold=threshold)
            assert at["exact"] <= result["best_exact"] + 1e-9
