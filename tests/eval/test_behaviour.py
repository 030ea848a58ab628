"""The form of answers, on rows written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.eval.behaviour import FIELDS, form_of, repeated_share, summarise_behaviour
from mplat.eval.summary import measure, values_of
from mplat.scoring.statistics import Resampling, paired_difference

HOW = Resampling(0, 0.95, 300)
FAMILIES, COMPARED = ["unsteered", "steered"], [("steered", "unsteered")]


def row(question, family, said, *, tokens=3, stop="stop", status="ok"):
    return {"origin": question, "family": family, "prediction": said, "n_new_tokens": tokens, "stop_reason": stop,
            "status": status}  # fmt: skip


def measured(rows, unit, metric):
    return measure(values_of(rows, unit, metric), FAMILIES, COMPARED, HOW)


def test_repetition_is_the_share_of_what_was_said_before():
    assert repeated_share("a b a b a", 1) == pytest.approx(3 / 5)
    assert repeated_share("a b a b a", 3) == pytest.approx(1 / 3)  # a b a, b a b, a b a
    assert repeated_share("Kartis", 1) == 0.0 and repeated_share("Kartis", 3) is None and repeated_share(" ", 1) is None
    with pytest.raises(UsageError, match="at least one word"):
        repeated_share("a", 0)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(1, 4))
def test_repetition_counts_each_run_after_its_first(words, n):
    runs = [words[i : i + n] for i in range(len(words) - n + 1)]
    before = sum(run in runs[:i] for i, run in enumerate(runs))
    assert repeated_share(" ".join(words), n) == (pytest.approx(before / len(runs)) if runs else None)


def test_what_has_no_answer_has_no_form():
    assert form_of(row("q", "steered", None, status="model_nonfinite")) == dict.fromkeys(FIELDS)
    assert form_of(row("q", "steered", "", stop="eos", tokens=1)) == {
        "n_new_tokens": 1.0, "reached_limit": 0.0, "empty": 1.0, "repeated_words": None, "repeated_triples": None,
    }  # fmt: skip


def test_differences_are_paired_by_question():
    said = {"q0": ("Kartis", "Kartis Kartis Kartis"), "q1": ("red lamp", "red lamp"), "q2": ("Bel", "")}
    rows = [
        row(question, family, text, tokens=len(text.split()) + 1, stop="length" if len(text) > 10 else "stop")
        for question, texts in said.items()
        for family, text in zip(FAMILIES, texts, strict=True)
    ]
    found = summarise_behaviour(rows, measured)
    assert found.n == 3
    expected = paired_difference([4, 3, 1], [2, 3, 2], seed=0, n_resamples=300)
    assert found.n_new_tokens.differences["steered-unsteered"] == expected
    assert found.reached_limit.conditions["steered"].mean == pytest.approx(1 / 3)
    assert found.empty.differences["steered-unsteered"].mean == pytest.approx(1 / 3)
    # the empty answer has no share of repeated words and takes its partner out of the comparison
    assert found.repeated_words.differences["steered-unsteered"].n == 2
    assert found.repeated_words.differences["steered-unsteered"].mean == pytest.approx((2 / 3 + 0) / 2)
