"""DROP: every step of its comparison against an independent one, its oddities, and the official file."""

from __future__ import annotations

import itertools
import random
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.scoring import metrics
from mplat.scoring.metrics.drop import normalise_span, round_half_even

WORDS = st.sampled_from(
    [
        "the", "a", "New", "York", "3", "3.0", "007", "1e3", "1,234", "$5", "5%", "32-yard", "23-yard", "field", "goal",
        "\u0663", "\uff13", "nan", "Infinity", "three", "3rd", "1_000", "U.S.", "x\ty", "", "3\t",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.lists(WORDS, max_size=4).map(" ".join), st.text("a3.- ,$xT\t", max_size=8))
SPANS = st.lists(TEXTS, max_size=4)


def spans(*texts: str) -> dict[str, Any]:
    return {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": list(texts)}


def number(text: str) -> dict[str, Any]:
    return {"number": text, "date": {"day": "", "month": "", "year": ""}, "spans": []}


def date(day: Any, month: Any, year: Any) -> dict[str, Any]:
    return {"number": "", "date": {"day": day, "month": month, "year": year}, "spans": []}


def both(prediction: Any, *golds: dict[str, Any]) -> tuple[float | None, float | None]:
    score = metrics.score("drop", prediction, list(golds))
    return score.em, score.f1


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("3", "3.0"),
        ("3.", "3.0"),
        ("3.0", "3.0"),
        ("007", "7.0"),
        ("1e3", "1000.0"),
        ("1,234", "1234.0"),
        ("$5", "5.0"),
        ("5%", "5.0"),
        ("-3", "3.0"),
        ("1_000", "1000.0"),
        ("\u0663", "3.0"),  # Arabic-Indic
        ("\uff13", "3.0"),  # full width
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("3rd", "3rd"),
        ("three", "three"),
        ("12.5", "12.5"),
        ("$12.5", "125.0"),  # no number before its punctuation goes
        ("the 32-yard field goal", "32.0 yard field goal"),
        ("U.S.", "us"),
        ("a\tthe", ""),
        ("x\u00a0y", "x y"),  # one token, whose whitespace is folded
        ("1\u00a02", "1 2"),  # one token and no number
        ("well\u2013known", "well\u2013known"),
        ("--  -", ""),
    ],
)
def test_the_normaliser_of_a_span(text: str, normalised: str) -> None:
    assert normalise_span(text) == normalised


def test_a_number_word_is_no_number() -> None:
    assert both("three", number("3")) == (0.0, 0.0)
    assert both("3.0", number("3")) == (1.0, 1.0)


def test_the_answer_is_the_number_else_the_spans_else_the_date() -> None:
    everything = {"number": "3", "spans": ["x"], "date": {"day": "8", "month": "March", "year": "2010"}}
    assert both("3", everything) == (1.0, 1.0)
    assert both("x", everything | {"number": ""}) == (1.0, 1.0)
    assert both("8 March 2010", everything | {"number": "", "spans": []}) == (1.0, 1.0)


def test_parts_of_a_date_that_are_null_are_the_word_none() -> None:
    """As the official script formats them; a part that is not a text is written out, too."""
    assert both("None March 2010", date(None, "March", "2010")) == (1.0, 1.0)
    assert both("March 2010", date(None, "March", "2010")) == (0.0, 0.8)
    assert both("2010", date(None, None, "2010")) == (0.0, 0.67)
    assert both("8 March none", date("8", "March", None)) == (1.0, 1.0)
    assert both("none none none", date(None, None, None)) == (1.0, 1.0)
    assert both("8 March 2010", date(8, "March", 2010)) == (1.0, 1.0)
    assert both("0 March 2010", date(0, "March", 2010)) == (1.0, 1.0)


def test_empty_parts_of_a_date_are_blank() -> None:
    assert both("March 2010", date("", "March", "2010")) == (1.0, 1.0)
    assert both("2010", date("", "", "2010")) == (1.0, 1.0)


def test_oddity_em_looks_at_sets_and_f1_does_not() -> None:
    assert both(["x", "x", "y"], spans("x", "y", "y")) == (1.0, 0.67)


def test_oddity_a_repeated_word_breaks_em_and_not_f1() -> None:
    assert both("New New York", spans("New York")) == (0.0, 1.0)


def test_oddity_the_order_of_words_breaks_em_and_not_f1() -> None:
    assert both("March 8, 2010", date("8", "March", "2010")) == (0.0, 1.0)


def test_oddity_another_number_is_worth_nothing() -> None:
    assert both("32-yard field goal", spans("23-yard field goal")) == (0.0, 0.0)


def test_oddity_a_number_too_many_is_only_a_loss_of_precision() -> None:
    assert both("3 5", number("3")) == (0.0, round(2 * 0.5 / 1.5, 2))


def test_oddity_the_empty_list_scores_nothing_and_the_empty_text_is_a_span() -> None:
    assert both([], spans("x")) == (0.0, 0.0)
    assert both([], spans("the")) == (0.0, 0.0)
    assert both("", spans("the")) == (1.0, 1.0)
    assert both("", spans("x")) == (0.0, 0.0)


def test_a_text_is_a_list_of_one_span() -> None:
    assert both("x y", spans("x", "y")) == both(["x y"], spans("x", "y")) == (0.0, round((2 / 3) / 2, 2))


def test_too_many_spans_and_too_few_cost_the_same() -> None:
    assert both(["x", "y"], spans("x")) == both(["x"], spans("x", "y")) == (0.0, 0.5)


def test_the_assignment_is_one_to_one_and_the_best_of_all() -> None:
    """Greedily "a b" would take "a b c" (0.8), and "b c" get nothing but 0.5 of "b"; the best total crosses."""
    prediction, gold = ["x y", "y z"], ["x y z", "x y"]
    assert both(prediction, spans(*gold)) == (0.0, round((1 + 0.8) / 2, 2))
    assert both(["x", "x"], spans("x", "w")) == (0.0, 0.5)


def test_maxima_over_candidates_are_taken_separately_and_blank_candidates_are_ignored() -> None:
    # EM 1 with F1 0.67 from the first, F1 1 with EM 0 from the second
    prediction = ["x", "x", "y y"]
    assert both(prediction, spans("x", "y y", "y y"), spans("x", "x x", "y")) == (1.0, 1.0)
    assert both("", date("", "", "")) == (0.0, 0.0)
    assert both("", spans(" ", "x"), spans("the")) == (1.0, 1.0)


def test_rounding_is_numpys() -> None:
    for value in [i / n for n in range(1, 200) for i in range(n + 1)]:
        assert round_half_even(value) == float(round(np.float64(value), 2)), value


def test_rounding_differs_from_pythons_where_it_matters() -> None:
    """3 shared words of 77 and 3: F1 is 6 / 80 = 0.075."""
    prediction = " ".join(f"w{i}" for i in range(77))
    assert both(prediction, spans("w1 w2 w3"))[1] == 0.08 != round(0.075, 2)


# An independent comparison: the steps as loops, and the assignment by trying every one.


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def normalise_by_rule(text: str) -> str:
    words: list[str] = []
    for token in text.replace("-", " ").split(" "):
        token = token.lower()
        if not is_number(token):
            token = "".join(c for c in token if c not in string.punctuation)
        if is_number(token):
            token = str(float(token))
        words += [word for word in token.split() if word not in ("a", "an", "the")]
    return " ".join(words)


def f1_by_rule(predicted: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if is_number(word)}
    if numbers and not numbers & predicted:
        return 0.0
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * len(predicted & gold) / (len(predicted) + len(gold))


def compare_by_rule(prediction: list[str], gold: list[str]) -> tuple[float, float]:
    p, g = [normalise_by_rule(t) for t in prediction], [normalise_by_rule(t) for t in gold]
    size = max(len(p), len(g))
    table = [
        [f1_by_rule(set(p[j].split()), set(g[i].split())) if i < len(g) and j < len(p) else 0.0 for j in range(size)]
        for i in range(size)
    ]
    total = max(sum(table[i][j] for i, j in enumerate(way)) for way in itertools.permutations(range(size)))
    return float(len(p) == len(g) and set(p) == set(g)), total / size


@given(SPANS, st.lists(TEXTS, min_size=1, max_size=4).filter(lambda texts: texts[0].strip()))
def test_scores_are_those_of_the_independent_comparison(prediction: list[str], gold: list[str]) -> None:
    em, f1 = both(prediction, spans(*gold))
    expected_em, expected_f1 = compare_by_rule(prediction, gold)
    assert em == expected_em
    assert f1 == pytest.approx(expected_f1, abs=0.005 + 1e-9) and f1 == round(f1, 2)  # type: ignore[arg-type]


@given(
    SPANS, st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=4), st.randoms(use_true_random=False)
)
def test_the_order_of_candidates_and_of_spans_does_not_matter(p: list[str], golds: list, rnd: random.Random) -> None:
    objects = [spans(*texts) for texts in golds]
    em, f1 = both(p, *objects)
    assert em in (0.0, 1.0) and 0.0 <= f1 <= 1.0  # type: ignore[operator]
    rnd.shuffle(objects)
    assert both(p, *objects, objects[0]) == (em, f1)
    if all(all(text.strip() for text in texts) for texts in golds):  # a first span that is blank hides its candidate
        assert both(p[::-1], *[spans(*texts[::-1]) for texts in golds]) == (em, f1)


@given(st.lists(TEXTS, min_size=1, max_size=5, unique_by=normalise_by_rule).filter(lambda texts: texts[0].strip()))
def test_em_one_implies_f1_one_where_no_span_repeats(texts: list[str]) -> None:
    assert both(texts[::-1], spans(*texts)) == (1.0, 1.0)


def file_of(*pairs: tuple[str, dict[str, Any], list[dict[str, Any]]]) -> dict[str, Any]:
    qa_pairs = [
        {"question": "?", "query_id": query_id, "answer": answer, "validated_answers": validated}
        for query_id, answer, validated in pairs
    ]
    return {"nfl_1": {"passage": "p", "qa_pairs": qa_pairs[:1]}, "nfl_2": {"passage": "p", "qa_pairs": qa_pairs[1:]}}


FILE = file_of(
    ("q1", number("3"), []),
    ("q2", spans("x", "y"), [spans("x")]),
    ("q3", date("8", "March", "2010"), []),
    ("q4", spans("z"), []),
)
PREDICTIONS = {"q1": "3.0", "q2": ["x"], "q3": "March 8 2010", "other": "x"}


def test_the_corpus_result_has_the_official_keys_as_fractions_and_a_missing_prediction_is_zero() -> None:
    assert metrics.evaluate("drop", PREDICTIONS, FILE) == {"global_em": 2 / 4, "global_f1": 3 / 4}


def test_the_breakdown_by_type_has_the_type_of_the_last_best_candidate() -> None:
    result = metrics.evaluate("drop", PREDICTIONS, FILE, by_type=True)
    kinds = {key.rpartition("_")[0] for key in result} - {"global"}
    assert kinds == {"number", "date", "span"}  # q2 is matched by its validated answer, a single span
    assert (result["span_count"], result["span_share"], result["span_em"], result["span_f1"]) == (2, 0.5, 0.5, 0.5)
    assert (result["date_em"], result["date_f1"]) == (0.0, 1.0)
    assert result["number_em"] == 1.0


def test_a_question_without_validated_answers_and_one_with_blank_answers_only() -> None:
    file = file_of(("q1", number("3"), []), ("q2", date("", "", ""), []))
    for passage in file.values():
        for pair in passage["qa_pairs"]:
            del pair["validated_answers"]
    result = metrics.evaluate("drop", {"q1": "3", "q2": ""}, file, by_type=True)
    assert (result["global_em"], result["none_count"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("prediction", "gold", "words"),
    [
        ("3", ["3"], "not str; a text alone does not say"),
        ("3", "3", "answer object"),
        ("3", [], "answer object"),
        ("3", {"number": "", "spans": []}, "this one has none"),
        ("3", {"number": "", "spans": [3]}, "must be a list of texts"),
        (None, number("3"), "must be a text or a list of texts"),
        ({"answer": "3"}, number("3"), "must be a text or a list of texts"),
        (["3", 3], number("3"), "must be a list of texts"),
    ],
)
def test_wrong_types_are_refused(prediction: Any, gold: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.score("drop", prediction, gold)


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ({}, {}, "no question"),
        ({}, [], "official DROP schema"),
        ({}, {"p": {"qa_pairs": [{"query_id": "q"}]}}, "official DROP schema"),
        (["x"], FILE, "must be a mapping"),
        ({"q1": 3}, FILE, "'q1' must be a text or a list"),
    ],
)
def test_wrong_files_are_refused(predictions: Any, references: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.evaluate("drop", predictions, references)
