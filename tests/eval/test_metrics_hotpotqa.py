"""HotpotQA: the yes/no rule, supporting facts, joint scores and the corpus result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics

WORDS = st.sampled_from(["yes", "no", "noanswer", "the", "they", "were", "Paris", "U.S.", "!"])
TEXTS = st.one_of(st.lists(WORDS, max_size=4).map(" ".join), st.text(max_size=12))
FACTS = st.lists(st.tuples(st.sampled_from(["A", "B"]), st.integers(0, 3)), max_size=6)


def test_yes_against_a_longer_yes_scores_nothing_here_and_half_under_squad() -> None:
    score = metrics.score("hotpotqa", "yes, they were", "yes")
    assert (score.em, score.f1, score.prec, score.recall) == (0.0, 0.0, 0.0, 0.0)
    assert metrics.score("squad_v1", "yes, they were", ["yes"]).f1 == 0.5


@pytest.mark.parametrize("closed", ["yes", "no", "noanswer", "No answer".replace(" ", "-")])
def test_closed_answers_zero_f1_on_either_side_only_when_they_differ(closed: str) -> None:
    assert metrics.score("hotpotqa", closed, f"{closed} Paris").f1 == 0.0
    assert metrics.score("hotpotqa", f"{closed} Paris", closed).f1 == 0.0
    same = metrics.score("hotpotqa", closed.upper() + ".", closed)
    assert (same.em, same.f1) == (1.0, 1.0)


def test_the_rule_looks_at_the_normalised_text() -> None:
    assert metrics.score("hotpotqa", "The 'Yes'!", "yes sir").f1 == 0.0
    assert metrics.score("hotpotqa", "yes sir", "yes madam").f1 == pytest.approx(0.5)


def test_precision_and_recall_of_an_open_answer() -> None:
    score = metrics.score("hotpotqa", "the big red car", "red car")
    assert (score.prec, score.recall, score.f1) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8))


def test_both_empty_is_em_one_and_f1_zero_and_one_empty_is_zero() -> None:
    both = metrics.score("hotpotqa", "the", "!")
    assert (both.em, both.f1) == (1.0, 0.0)
    one = metrics.score("hotpotqa", "", "Paris")
    assert (one.em, one.f1) == (0.0, 0.0)


def test_a_record_holds_its_one_answer_in_a_list() -> None:
    assert metrics.score("hotpotqa", "Paris", ["Paris"]) == metrics.score("hotpotqa", "Paris", "Paris")
    with pytest.raises(InputError, match="must be a text"):
        metrics.score("hotpotqa", "Paris", ["Paris", "Lyon"])


def test_supporting_facts_are_sets_and_joint_is_the_product() -> None:
    score = metrics.score(
        "hotpotqa", "big red car", "red car",
        predicted_supports=[["A", 0], ["A", 0], ["B", 2], ["C", 1]], gold_supports=[("A", 0), ("B", 1)],
    )  # fmt: skip
    assert (score.sp_em, score.sp_prec, score.sp_recall) == (0.0, pytest.approx(1 / 3), 0.5)
    assert score.sp_f1 == pytest.approx(2 * 1 / (3 + 2))
    prec, recall = (2 / 3) * (1 / 3), 1.0 * 0.5
    assert (score.joint_prec, score.joint_recall) == (pytest.approx(prec), pytest.approx(recall))
    assert score.joint_f1 == pytest.approx(2 * prec * recall / (prec + recall))
    assert score.joint_em == 0.0


def test_empty_supporting_facts() -> None:
    both = metrics.score("hotpotqa", "x", "x", predicted_supports=[], gold_supports=[])
    assert (both.sp_em, both.sp_f1, both.sp_prec, both.sp_recall) == (1.0, 0.0, 0.0, 0.0)
    assert (both.joint_em, both.joint_f1) == (1.0, 0.0)
    one = metrics.score("hotpotqa", "x", "x", predicted_supports=[], gold_supports=[("A", 0)])
    assert (one.sp_em, one.sp_f1) == (0.0, 0.0)


def supports_by_membership(predicted: Any, gold: Any) -> tuple[float, float, float, float]:
    """The official counts said once more: em, f1, precision, recall of distinct tuples, whatever is in them."""
    found, true = {tuple(fact) for fact in predicted}, {tuple(fact) for fact in gold}
    hits = sum(fact in true for fact in found)
    misses, extra = sum(fact not in found for fact in true), len(found) - hits
    prec = hits / (hits + extra) if found else 0.0
    recall = hits / (hits + misses) if true else 0.0
    f1 = 2 * prec * recall / (prec + recall) if hits else 0.0
    return float(extra + misses == 0), f1, prec, recall


ODD_FACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("AB"), st.integers(0, 2)).map(list),
        st.lists(st.one_of(st.sampled_from(["A", "B", "0", None]), st.integers(0, 2), st.booleans()), max_size=3),
        st.sampled_from(["A0", "", "B"]),
    ),
    max_size=4,
)


@given(ODD_FACTS, ODD_FACTS)
def test_supporting_facts_of_any_arity_are_counted_as_facts(found: list, true: list) -> None:
    score = metrics.score("hotpotqa", "x", "x", predicted_supports=found, gold_supports=true)
    assert (score.sp_em, score.sp_f1, score.sp_prec, score.sp_recall) == pytest.approx(
        supports_by_membership(found, true)
    )


def test_one_malformed_fact_does_not_refuse_a_file() -> None:
    predictions = {"answer": {}, "sp": {"1": [["A", 0], ["B", 0, 1], ["B"], ["B", "0"]], "2": "A0"}}
    references = [
        {"_id": "1", "answer": "x", "supporting_facts": [["A", 0], ["B", 0]]},
        {"_id": "2", "answer": "x", "supporting_facts": [["A", 0]]},
    ]
    result = metrics.evaluate("hotpotqa", predictions, references)
    assert (result["sp_prec"], result["sp_recall"]) == (1 / 4 / 2, 1 / 2 / 2)


@pytest.mark.parametrize("facts", [[[["A"], 0]], ["A", 0], [3], 7])
def test_what_is_no_collection_of_facts_is_refused(facts: object) -> None:
    with pytest.raises(InputError, match="pairs of a title and a sentence index"):
        metrics.score("hotpotqa", "x", "x", predicted_supports=facts, gold_supports=[("A", 0)])


def test_one_side_of_the_supporting_facts_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="both"):
        metrics.score("hotpotqa", "x", "x", gold_supports=[("A", 0)])


GOLD = [
    {"_id": "1", "answer": "red car", "supporting_facts": [["A", 0], ["B", 1]]},
    {"_id": "2", "answer": "yes", "supporting_facts": [["A", 0]]},
    {"_id": "3", "answer": "Paris", "supporting_facts": [["C", 0]]},
    {"_id": "4", "answer": "Rome", "supporting_facts": [["D", 0]]},
]


def test_corpus_result_is_fractions_of_all_questions_and_joint_needs_both_parts() -> None:
    predictions = {
        "answer": {"1": "red car", "2": "yes indeed", "3": "Paris"},  # 4 missing
        "sp": {"1": [["A", 0]], "2": [["A", 0]], "4": [["D", 0]]},  # 3 missing
    }
    result = metrics.evaluate("hotpotqa", predictions, GOLD)
    assert list(result) == [
        "em", "f1", "prec", "recall",
        "sp_em", "sp_f1", "sp_prec", "sp_recall",
        "joint_em", "joint_f1", "joint_prec", "joint_recall",
    ]  # fmt: skip
    assert result["em"] == result["f1"] == result["prec"] == result["recall"] == 2 / 4
    assert result["sp_em"] == 2 / 4
    assert result["sp_prec"] == 3 / 4
    assert result["sp_recall"] == pytest.approx((0.5 + 1 + 1) / 4)
    assert result["sp_f1"] == pytest.approx((2 / 3 + 1 + 1) / 4)
    # question 1 alone has a joint score: 2 has a zero answer, 3 and 4 lack a part
    assert result["joint_em"] == 0.0
    assert result["joint_prec"] == 1 / 4
    assert result["joint_recall"] == 0.5 / 4
    assert result["joint_f1"] == pytest.approx((2 / 3) / 4)


def test_corpus_refuses_foreign_schemas() -> None:
    with pytest.raises(InputError, match="'sp'"):
        metrics.evaluate("hotpotqa", {"answer": {}}, GOLD)
    with pytest.raises(InputError, match="official schema"):
        metrics.evaluate("hotpotqa", {"answer": {}, "sp": {}}, [{"id": "1"}])
    with pytest.raises(InputError, match="no question"):
        metrics.evaluate("hotpotqa", {"answer": {}, "sp": {}}, [])


@given(TEXTS, TEXTS, FACTS, FACTS)
def test_bounds_order_and_the_joint_never_exceeds_its_parts(p: str, g: str, found: list, true: list) -> None:
    score = metrics.score("hotpotqa", p, g, predicted_supports=found, gold_supports=true)
    values = [
        getattr(score, prefix + part) for prefix in ("", "sp_", "joint_") for part in ("em", "f1", "prec", "recall")
    ]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert score.joint_prec <= min(score.prec, score.sp_prec) + 1e-12  # type: ignore[operator, type-var]
    assert score.joint_recall <= min(score.recall, score.sp_recall) + 1e-12  # type: ignore[operator, type-var]
    assert score == metrics.score("hotpotqa", p, g, predicted_supports=found[::-1], gold_supports=true[::-1])


@given(TEXTS)
def test_em_one_implies_f1_one_unless_empty(text: str) -> None:
    score = metrics.score("hotpotqa", f"The {text}", text)
    assert score.em == 1.0
    assert score.f1 == (1.0 if metrics.score("squad_v1", text, [""]).em == 0.0 else 0.0)


@given(TEXTS, TEXTS)
def test_the_f1_is_squads_or_zero(prediction: str, gold: str) -> None:
    hotpot, squad = metrics.score("hotpotqa", prediction, gold), metrics.score("squad_v1", prediction, [gold])
    assert hotpot.em == squad.em
    assert hotpot.f1 in (0.0, squad.f1)
