"""Where lm-evaluation-harness differs from the official metrics, difference by difference."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.scoring import metrics
from mplat.scoring.metrics.likelihood import lambada, lambada_split, rolling

WORDS = st.sampled_from(["the", "A", "The", "Paris", "red", "U.S.", "!", "12.5", "", "\n", "yes"])
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)


def em(name: str, prediction: str, gold: Any) -> float | None:
    return metrics.score(name, prediction, gold).em


# triviaqa


def test_triviaqa_keeps_articles_and_whitespace() -> None:
    assert em("lm_eval_triviaqa", "The Beatles", ["Beatles"]) == 0.0
    assert em("lm_eval_triviaqa", "The Beatles", ["Beatles", "the beatles!"]) == 1.0
    assert em("triviaqa", "The Beatles", ["Beatles"]) == 1.0
    assert em("lm_eval_triviaqa", "New  York", ["New York"]) == 0.0


def test_triviaqa_deletes_punctuation_where_the_official_metric_blanks_it() -> None:
    assert em("lm_eval_triviaqa", "AC/DC", ["ACDC"]) == 1.0
    assert em("triviaqa", "AC/DC", ["ACDC"]) == 0.0


def test_triviaqa_stops_at_a_newline_a_full_stop_or_a_comma_and_is_stripped() -> None:
    assert em("lm_eval_triviaqa", " Paris, France", ["Paris"]) == 1.0
    assert em("lm_eval_triviaqa", "U.S.", ["US"]) == 0.0  # cut to "U"
    assert em("lm_eval_triviaqa", "U.S.", ["u"]) == 1.0
    assert em("lm_eval_triviaqa", "\nParis", ["Paris"]) == 0.0  # the newline ends it at once


def test_triviaqa_takes_raw_aliases_of_either_schema() -> None:
    official = {"Value": "x", "Aliases": ["The Beatles"], "NormalizedAliases": ["beatles"]}
    hugging_face = {"value": "x", "aliases": ["The Beatles"], "normalized_aliases": ["beatles"]}
    for answer in (official, hugging_face):
        assert em("lm_eval_triviaqa", "the beatles", answer) == 1.0
        assert em("lm_eval_triviaqa", "beatles", answer) == 0.0
    documents = [{"question_id": "a", "answer": hugging_face}, {"question_id": "b", "answer": hugging_face}]
    expected = {"exact_match": 0.5}
    assert metrics.evaluate("lm_eval_triviaqa", ["the beatles", "x"], documents) == expected
    assert metrics.evaluate("lm_eval_triviaqa", {"b": "x", "a": "the beatles"}, documents) == expected


# Letters that grow in lower case (I with a dot, some Armenian and Greek ones do not), sharp s, sigma at the end, NUL.
HOSTILE = st.text(st.sampled_from("\u0130Ia\u0307i\u00df\u1e9e\u03a3\u03c3\u0587\ufb01Az!_- the\x00"), max_size=6)
ARTICLE = r"\b(?:The |the |An |A |The |a |an )"


def exact_match_in_arrays(prediction: str, golds: list[str], pattern: str | None) -> float:
    """The harness's comparison said once more: arrays of texts, which keep the width that they were made with."""
    predictions, references = [prediction] * len(golds), list(golds)
    if pattern is not None:
        predictions, references = ([re.sub(pattern, "", text) for text in each] for each in (predictions, references))
    delete = str.maketrans("", "", string.punctuation)
    left, right = (np.char.translate(np.char.lower(np.array(each)), delete) for each in (predictions, references))
    return float(np.mean(left == right) > 0)


@pytest.mark.parametrize(("name", "pattern"), [("lm_eval_triviaqa", None), ("lm_eval_nq_open", ARTICLE)])
@settings(max_examples=300)
@given(HOSTILE, st.lists(HOSTILE, min_size=1, max_size=3), st.booleans())
def test_exact_match_is_that_of_arrays_of_texts(name, pattern, prediction, golds, near) -> None:
    if near:  # most pairs would differ otherwise
        golds = [*golds, prediction.lower(), prediction.replace("\u0130", "i")]
    expected = exact_match_in_arrays(prediction.strip(), golds, pattern)
    assert em(name, prediction, golds) == expected


def test_letters_that_grow_in_lower_case_are_cut_at_the_longest_text() -> None:
    assert em("lm_eval_triviaqa", "\u0130", ["i"]) == 1.0  # cut to one character
    assert em("lm_eval_triviaqa", "\u0130", ["i", "longer"]) == 1.0  # the prediction has its own width
    assert em("lm_eval_triviaqa", "i\u0307", ["\u0130"]) == 0.0
    assert em("lm_eval_triviaqa", "i\u0307", ["\u0130", "longer"]) == 1.0
    assert em("lm_eval_nq_open", "\u0130zmir", ["i\u0307zmi"]) == 1.0
    assert em("lm_eval_nq_open", "the \u0130zmir", ["i\u0307zmi"]) == 1.0
    assert em("triviaqa", "\u0130zmir", ["i\u0307zmir"]) == 1.0  # the official script cuts nothing


# nq_open


def test_nq_open_removes_articles_by_its_own_pattern() -> None:
    assert em("lm_eval_nq_open", "The Beatles", ["Beatles"]) == 1.0
    assert em("lm_eval_nq_open", "THE Beatles", ["Beatles"]) == 0.0  # case-sensitive
    assert em("lm_eval_nq_open", "vitamin A", ["vitamin"]) == 0.0  # no blank behind it
    assert em("lm_eval_nq_open", "vitamin A", ["vitamin a"]) == 1.0
    assert em("lm_eval_nq_open", "end of the line", ["end of line"]) == 1.0


def test_nq_open_has_no_nfd() -> None:
    assert em("lm_eval_nq_open", unicodedata.normalize("NFD", "café"), ["café"]) == 0.0
    assert em("nq_open", unicodedata.normalize("NFD", "café"), ["café"]) == 1.0


def test_nq_open_in_a_file() -> None:
    documents = [{"question": "q", "answer": ["x", "y"]}, {"question": "r", "answer": ["z"]}]
    assert metrics.evaluate("lm_eval_nq_open", {"q": "the y", "r": "x"}, documents) == {"exact_match": 0.5}


# drop


def spans(*texts: str) -> dict[str, Any]:
    return {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": list(texts)}


def test_drop_ends_at_the_first_full_stop() -> None:
    number = spans() | {"number": "12.5"}
    assert (em("lm_eval_drop", "12.5", number), em("drop", "12.5", number)) == (0.0, 1.0)
    assert em("lm_eval_drop", "12.5", spans() | {"number": "12"}) == 1.0


def test_drop_is_always_one_span() -> None:
    assert metrics.score("lm_eval_drop", "x y", spans("x", "y")).em == 0.0
    with pytest.raises(InputError, match="must be a text"):
        metrics.score("lm_eval_drop", ["x", "y"], spans("x", "y"))


def test_drop_reads_validated_answers_held_as_columns_and_equal_ones_change_nothing() -> None:
    columns = {key: [spans("x")[key], spans("y")[key], spans("y")[key]] for key in ("number", "date", "spans")}
    documents = [{"query_id": "q", "answer": spans("w"), "validated_answers": columns}]
    assert metrics.evaluate("lm_eval_drop", ["Y."], documents) == {"em": 1.0, "f1": 1.0}
    assert metrics.score("lm_eval_drop", "y", [spans("y"), spans("y")]) == metrics.score("drop", "y", spans("y"))


# squad_completion, swde, fda


@pytest.mark.parametrize("name", ["lm_eval_squad_completion", "lm_eval_swde", "lm_eval_fda"])
def test_completion_is_a_search_for_the_stripped_first_gold_in_the_raw_continuation(name: str) -> None:
    def contains(text: str, gold: Any) -> float | None:
        return metrics.score(name, text, gold).contains

    assert contains("it was PARIS, of course", [" Paris "]) == 1.0
    assert contains("comparison", "paris") == 1.0  # inside a word, too
    assert contains("a.c", "a.c") == 1.0 and contains("abc", "a.c") == 0.0
    assert contains("the U.S", "US") == 0.0  # nothing is normalised
    assert contains("x\nParis", "Paris") == 0.0  # behind the end
    assert contains("Paris", ["Rome", "Paris"]) == 0.0  # the first gold alone
    assert metrics.score(name, "Paris", "Paris").em is None
    assert metrics.evaluate(name, ["Paris", "x"], [{"value": "paris"}, {"value": "y"}]) == {"contains": 0.5}
    # A blank answer stands everywhere, also in nothing.
    assert contains("x", " ") == contains("", "") == contains("\nx", ["\t", "y"]) == 1.0
    assert metrics.evaluate(name, ["", "x"], [{"value": " "}, {"value": "y"}]) == {"contains": 0.5}
    with pytest.raises(InputError, match="needs an answer"):
        contains("x", [])


# squadv2


def test_squadv2_ends_at_a_newline_and_writing_unanswerable_is_wrong() -> None:
    assert em("lm_eval_squadv2", "\nParis", []) == 1.0
    assert em("lm_eval_squadv2", "Paris\nQuestion", ["Paris"]) == 1.0
    assert em("lm_eval_squadv2", "unanswerable", []) == 0.0


def test_squadv2_never_acts_on_its_probability_except_in_the_best_scores() -> None:
    references = [{"id": "a", "answers": {"text": ["x"]}}, {"id": "b", "answers": {"text": []}}]

    def predictions(probability: float) -> list[dict[str, Any]]:
        return [
            {"id": "a", "prediction_text": " x\nmore", "no_answer_probability": 0.2},
            {"id": "b", "prediction_text": " unanswerable", "no_answer_probability": probability},
        ]

    sure = metrics.evaluate("lm_eval_squadv2", predictions(1.0), references)
    unsure = metrics.evaluate("lm_eval_squadv2", predictions(0.1), references)
    assert list(sure) == [
        "exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1",
    ]  # fmt: skip
    assert sure["exact"] == unsure["exact"] == 50.0 and sure["NoAns_exact"] == 0.0
    assert (sure["best_exact"], unsure["best_exact"]) == (100.0, 50.0)
    with pytest.raises(InputError, match="no_answer_probability"):
        metrics.evaluate("lm_eval_squadv2", [{"id": "a"}], references)


# longbench


def test_longbench_is_token_f1_with_no_yes_no_rule_and_no_exact_match() -> None:
    score = metrics.score("lm_eval_longbench_qa_f1", " yes, they were", ["yes"])
    assert (score.em, score.f1) == (None, 0.5)
    assert metrics.score("hotpotqa", "yes, they were", "yes").f1 == 0.0


def test_longbench_empty_texts_and_empty_lists_score_zero() -> None:
    assert metrics.score("lm_eval_longbench_qa_f1", "the", ["!"]).f1 == 0.0
    assert metrics.score("lm_eval_longbench_qa_f1", "x", []).f1 == 0.0
    documents = [{"_id": "1", "answers": ["x"]}, {"_id": "2", "answers": ["y"]}]
    assert metrics.evaluate("lm_eval_longbench_qa_f1", {"1": "x", "2": "x"}, documents) == {"qa_f1_score": 0.5}


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_longbench_is_the_f1_of_squad_version_one(prediction: str, golds: list[str]) -> None:
    ours = metrics.score("lm_eval_longbench_qa_f1", prediction, golds)
    assert ours.f1 == metrics.score("squad_v1", prediction, golds).f1
    assert ours == metrics.score("lm_eval_longbench_qa_f1", f"  {prediction}\n", golds[::-1])


# every document has a prediction


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "'b' has no prediction"),
        (["x"], {"a": ["x"], "b": ["y"]}, "1 predictions for 2 documents"),
        ("x", {"a": ["x"]}, "list of records"),
        (["x"], [{"question": "q"}], "document 0 is not in the schema"),
        (["x", "x"], [{"question_id": "q", "answer": ["x"]}] * 2, "document 1 has the question_id 'q'"),
        ([], [], "no document"),
        ([None], {"a": ["x"]}, "must be a text"),
    ],
)
def test_the_harness_predicts_every_document(predictions: Any, references: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.evaluate("lm_eval_triviaqa", predictions, references)


# log-likelihoods


def test_lambada_asks_for_the_last_word_by_single_blanks() -> None:
    assert lambada_split("He said  hello") == ("He said ", " hello")
    with pytest.raises(InputError, match="ends with a space and a word"):
        lambada_split("hello ")
    result = lambada([math.log(0.5), math.log(0.125)], [True, False])
    assert result == {"perplexity": pytest.approx(4.0), "acc": 0.5}  # 1 / sqrt(1/2 * 1/8)
    with pytest.raises(InputError, match="as many"):
        lambada([], [])


def test_rolling_perplexities_are_over_whole_documents() -> None:
    result = rolling([-8 * math.log(2), -4 * math.log(2)], ["two words", "é "])  # 9 and 3 bytes, 2 and 2 words
    assert result["bits_per_byte"] == pytest.approx(12 / 12)
    assert result["byte_perplexity"] == pytest.approx(2.0)
    assert result["word_perplexity"] == pytest.approx(2 ** (12 / 4))
    with pytest.raises(InputError, match="empty"):
        rolling([0.0], [""])
    with pytest.raises(InputError, match="as many"):
        rolling([0.0], [])
