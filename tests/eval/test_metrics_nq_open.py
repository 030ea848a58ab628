"""NQ-Open: NFD before the base normaliser, exact match alone, predictions keyed by the question."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics
from mplat.scoring.metrics.normalize import normalise

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["the", "café", "cafe\u0301", "cafe", "U.S.", "!", ""]))


def em(prediction: str, golds: Any) -> float | None:
    return metrics.score("nq_open", prediction, golds).em


def test_composed_and_decomposed_accents_are_equal_and_no_accent_is_lost() -> None:
    assert em("cafe\u0301", ["café"]) == em("café", ["cafe\u0301"]) == 1.0
    assert em("cafe", ["café"]) == 0.0
    assert metrics.score("squad_v1", "cafe\u0301", ["café"]).em == 0.0


def test_nfd_is_canonical_so_that_compatibility_forms_stay_different() -> None:
    assert em("\ufb01ve", ["five"]) == 0.0  # the ligature fi
    assert em("\uff15", ["5"]) == 0.0


def test_any_answer_will_do_and_there_is_no_f1() -> None:
    score = metrics.score("nq_open", "The U.S.", ["Canada", "us"])
    assert (score.em, score.f1) == (1.0, None)
    assert em("US of America", ["us"]) == 0.0


def test_both_empty_is_one_and_one_empty_is_zero() -> None:
    assert (em("the", ["!"]), em("", ["x"]), em("x", ["the"])) == (1.0, 0.0, 0.0)


REFERENCES = [
    {"question": "q1", "answer": ["a1", "b1"]},
    {"question": "q2", "answer": ["x"]},
    {"question": "q3", "answer": ["y"]},
]


def test_the_corpus_result_counts_a_missing_prediction_as_wrong() -> None:
    expected = {"missing_predictions": 1, "num_correct": 1, "num_total": 3, "accuracy": pytest.approx(1 / 3)}
    predictions = [{"question": "q1", "prediction": "B1."}, {"question": "q2", "prediction": "no"}]
    result = metrics.evaluate("nq_open", predictions, REFERENCES)
    assert result == expected and list(result) == list(expected)
    mapped = {r["question"]: r["answer"] for r in REFERENCES}
    assert metrics.evaluate("nq_open", {"q1": "b1", "q2": "no", "other": "y"}, mapped) == expected


def test_the_second_answer_field_of_efficientqa() -> None:
    references = [{"question": "q", "answer": ["x"], "answer_and_def_correct_predictions": ["x", "y"]}]
    assert metrics.evaluate("nq_open", {"q": "y"}, references)["accuracy"] == 0.0
    field = "answer_and_def_correct_predictions"
    assert metrics.evaluate("nq_open", {"q": "y"}, references, answer_field=field)["accuracy"] == 1.0
    with pytest.raises(UsageError, match="no answer field 'answers'; did you mean 'answer'"):
        metrics.evaluate("nq_open", {"q": "y"}, references, answer_field="answers")


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ({}, [], "no question"),
        ({}, [{"question": "q"}], "references must be records of question and answer"),
        (["x"], REFERENCES, "predictions must be records of question and prediction"),
        ("x", REFERENCES, "list of records"),
        ({"q1": None}, REFERENCES, "must be a text"),
        ({"q1": "x"}, {"q1": []}, "at least one answer"),
    ],
)
def test_wrong_files_are_refused(predictions: Any, references: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.evaluate("nq_open", predictions, references)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_em_is_equality_after_nfd_whatever_the_order(prediction: str, golds: list[str]) -> None:
    def plain(text: str) -> str:
        return normalise(unicodedata.normalize("NFD", text))

    assert em(prediction, golds) == float(plain(prediction) in {plain(g) for g in golds}) == em(prediction, golds[::-1])
    assert em(unicodedata.normalize("NFC", prediction), [unicodedata.normalize("NFD", prediction)]) == 1.0
