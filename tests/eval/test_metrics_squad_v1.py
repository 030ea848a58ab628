"""SQuAD v1.1: the base normaliser's consequences, the table row, the corpus result, and properties."""

from __future__ import annotations

import re
import string
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics
from mplat.scoring.metrics.normalize import normalise

WORDS = st.sampled_from(
    [
        "the",
        "an",
        "A",
        "yes",
        "no",
        "Paris",
        "U.S.",
        "twenty-one",
        "1,000",
        "-5",
        "5%",
        "!",
        "_",
        "é",
        "\u2019",
        "“",
        "",
    ]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), st.text(max_size=20))
GOLDS = st.lists(TEXTS, min_size=1, max_size=5)


def normalise_by_rule(text: str) -> str:
    """The rule of the base normaliser, character by character and word by word."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    pieces = re.split(r"(\w+)", kept)  # the odd pieces are whole words in the sense of a Unicode word boundary
    return " ".join("".join(" " if piece in ("a", "an", "the") else piece for piece in pieces).split())


def f1_by_formula(prediction: str, gold: str) -> float:
    """2 * shared / (|prediction| + |gold|), the closed form of the harmonic mean."""
    p, g = normalise_by_rule(prediction).split(), normalise_by_rule(gold).split()
    shared = sum(min(p.count(token), g.count(token)) for token in set(p))
    return 2 * shared / (len(p) + len(g)) if shared else 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("U.S.", "US"),
        ("twenty-one", "twentyone"),
        ("1,000", "1000"),
        ("1.5", "15"),
        ("-5", "5"),
        ("5%", "5"),
        ("$5", "5"),
        ("vitamin A", "vitamin"),
        ("A. B. C.", "B C"),
        ("The  Beatles\t", "beatles"),
        ("New\u00a0York", "New York"),
        ("an\u2003apple", "apple"),
        ("the-end", "theend"),
    ],
)
def test_texts_that_the_base_normaliser_makes_equal(one: str, other: str) -> None:
    assert metrics.score("squad_v1", one, [other]).em == 1.0
    assert metrics.score("squad_v1", other, [one]).em == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("twenty-one", "twenty one"),
        ("\u2018tis", "tis"),
        ("\u201cyes\u201d", "yes"),
        ("1990\u20131995", "19901995"),
        (unicodedata.normalize("NFD", "café"), "café"),
        ("café", "cafe"),
        ("\uff11\uff12", "12"),
        ("New\u200bYork", "New York"),
        ("New\u200bYork", "NewYork"),
        ("two", "2"),
        ("€5", "5"),
        ("straße", "strasse"),  # lower, not casefold
        ("\u300cx\u300d", "x"),
    ],
)
def test_texts_that_stay_different(one: str, other: str) -> None:
    assert metrics.score("squad_v1", one, [other]).em == 0.0


def test_articles_are_whole_lower_cased_words_only() -> None:
    assert normalise("An anthem, the theme; a-a ab") == "anthem theme aa ab"
    assert normalise("THE End") == "end"


def test_the_f1_of_a_partial_answer_is_the_harmonic_mean() -> None:
    assert metrics.score("squad_v1", "yes, they were", ["yes"]).f1 == 0.5
    assert metrics.score("squad_v1", "the Denver Broncos team", ["Denver Broncos"]).f1 == pytest.approx(4 / 5)


def test_overlap_counts_repeated_tokens_as_often_as_both_have_them() -> None:
    assert metrics.score("squad_v1", "new new york", ["new york"]).f1 == pytest.approx(2 * 2 / (3 + 2))


def test_maxima_of_em_and_f1_are_taken_independently_over_golds() -> None:
    score = metrics.score("squad_v1", "!", ["?", "Paris"])
    assert (score.em, score.f1) == (1.0, 0.0)
    score = metrics.score("squad_v1", "red blue", ["red green", "red blue black"])
    assert (score.em, score.f1) == (0.0, pytest.approx(2 * 2 / 5))


def test_both_empty_is_em_one_and_f1_zero() -> None:
    for prediction in ("", "the", " .!? ", "A"):
        score = metrics.score("squad_v1", prediction, ["an"])
        assert (score.em, score.f1) == (1.0, 0.0)


def test_one_empty_is_zero_both_ways() -> None:
    for prediction, gold in (("", "Paris"), ("Paris", "the")):
        score = metrics.score("squad_v1", prediction, [gold])
        assert (score.em, score.f1) == (0.0, 0.0)


def test_a_value_the_metric_does_not_have_is_none() -> None:
    score = metrics.score("squad_v1", "x", ["x"])
    assert score.sp_em is None and score.joint_f1 is None and score.prec is None


def references(*questions: tuple[str, list[str]]) -> dict:
    qas = [
        {"id": i, "question": "?", "answers": [{"text": t, "answer_start": 0} for t in golds]} for i, golds in questions
    ]
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "c", "qas": qas}]}]}


def test_corpus_result_has_the_official_keys_in_percent_and_counts_missing_predictions() -> None:
    gold = references(("a", ["Paris"]), ("b", ["red blue", "red"]), ("c", ["never predicted"]))
    result = metrics.evaluate("squad_v1", {"a": "the Paris", "b": "red green", "unknown": "x"}, gold)
    assert list(result) == ["exact_match", "f1"]
    assert result["exact_match"] == pytest.approx(100 * 1 / 3)
    assert result["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)
    assert metrics.evaluate("squad_v1", {"a": "the Paris", "b": "red green"}, gold["data"]) == result


def test_corpus_of_nothing_and_foreign_schemas_are_refused() -> None:
    with pytest.raises(InputError, match="no question"):
        metrics.evaluate("squad_v1", {}, {"data": []})
    with pytest.raises(InputError, match="official SQuAD schema"):
        metrics.evaluate("squad_v1", {}, [{"id": "1", "question": "?"}])
    with pytest.raises(InputError, match="must be a text"):
        metrics.evaluate("squad_v1", {"a": None}, references(("a", ["x"])))  # type: ignore[dict-item]


def test_a_missing_prediction_or_gold_is_never_scored_as_an_empty_one() -> None:
    with pytest.raises(InputError, match="must be a text"):
        metrics.score("squad_v1", None, ["x"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one answer"):
        metrics.score("squad_v1", "x", [])


def test_names_and_unknown_names() -> None:
    assert {"squad_v1", "hotpotqa", "triviaqa"} <= set(metrics.names())
    with pytest.raises(UsageError, match="did you mean 'squad_v1'"):
        metrics.score("squad_1", "x", ["x"])
    with pytest.raises(UsageError, match="valid: .*drop, hotpotqa"):
        metrics.evaluate("rouge", {}, {})
    with pytest.raises(UsageError, match="no argument 'threshold'"):
        metrics.score("squad_v1", "x", ["x"], threshold=1.0)


@given(TEXTS)
def test_normaliser_follows_the_rule_and_is_stable(text: str) -> None:
    assert normalise(text) == normalise_by_rule(text)


@given(TEXTS, GOLDS)
def test_scores_follow_the_closed_form_within_bounds_whatever_the_order(prediction: str, golds: list[str]) -> None:
    score = metrics.score("squad_v1", prediction, golds)
    assert score.em is not None and score.f1 is not None
    assert 0.0 <= score.em <= 1.0 and 0.0 <= score.f1 <= 1.0
    assert score.f1 == pytest.approx(max(f1_by_formula(prediction, g) for g in golds))
    assert score == metrics.score("squad_v1", prediction, golds[::-1])
    assert score == metrics.score("squad_v1", prediction, golds + golds[:1])


@given(TEXTS, GOLDS)
def test_em_one_implies_f1_one_unless_the_prediction_is_empty(prediction: str, golds: list[str]) -> None:
    score = metrics.score("squad_v1", prediction, [*golds, prediction])
    assert score.em == 1.0
    assert score.f1 == (1.0 if normalise_by_rule(prediction) else 0.0)


def test_ten_thousand_items_a_second() -> None:
    golds = ["Denver Broncos", "The Denver Broncos", "Denver"]
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(500):
            metrics.score("squad_v1", "the Denver Broncos of Colorado", golds)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 500 / 10_000
