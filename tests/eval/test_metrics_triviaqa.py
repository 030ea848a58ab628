"""TriviaQA: its own normaliser, gold objects, domains, verified files and the oracle."""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.scoring import metrics
from mplat.scoring.metrics.triviaqa import normalise_trivia, oracle

WORDS = st.sampled_from(
    ["the", "A", "U.S.", "AC/DC", "it's", "x_y", "\u2018q\u2019", "\u00b4", "`", "é", "Puck", "twenty-one", "!"]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=5).map(" ".join), st.text(max_size=15))
ALIASES = st.lists(TEXTS, min_size=1, max_size=5)


def normalise_by_rule(text: str) -> str:
    """The rule of the TriviaQA normaliser, character by character."""
    marks = set(string.punctuation) | {"\u2018", "\u2019", "\u00b4", "\u0060"}
    blanked = "".join(" " if c in marks else c for c in text.replace("_", " ").lower())
    pieces = re.split(r"(\w+)", blanked)
    return " ".join("".join(" " if piece in ("a", "an", "the") else piece for piece in pieces).split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("twenty-one", "twenty one"),
        ("AC/DC", "ac dc"),
        ("it's", "it s"),
        ("it\u2019s", "it's"),
        ("U.S.", "u s"),
        ("Sunset_Boulevard", "sunset boulevard"),
        ("\u2018Puck\u2019", "Puck"),
        ("`Puck\u00b4", "puck"),
        ("The Beatles", "beatles"),
    ],
)
def test_texts_that_the_normaliser_makes_equal(one: str, other: str) -> None:
    assert metrics.score("triviaqa", one, [other]).em == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("U.S.", "US"),
        ("twenty-one", "twentyone"),
        ("1,000", "1000"),
        ("\u201cPuck\u201d", "Puck"),
        ("café", "cafe"),
        ("don't", "dont"),
    ],
)
def test_texts_that_stay_different(one: str, other: str) -> None:
    assert metrics.score("triviaqa", one, [other]).em == 0.0


def test_a_mark_beside_an_article_sets_it_free() -> None:
    assert normalise_trivia("A-Team") == "team"  # under the base normaliser it is "ateam"
    assert metrics.score("squad_v1", "A-Team", ["team"]).em == 0.0


def test_both_empty_is_em_one_and_f1_zero_and_one_empty_is_zero() -> None:
    both = metrics.score("triviaqa", "_", ["The"])
    assert (both.em, both.f1) == (1.0, 0.0)
    one = metrics.score("triviaqa", "", ["Puck"])
    assert (one.em, one.f1) == (0.0, 0.0)


def test_value_is_not_consulted_only_the_aliases_and_human_answers() -> None:
    answer = {
        "Value": "Puck",
        "Aliases": ["Puck"],
        "NormalizedAliases": ["robin goodfellow"],
        "HumanAnswers": ["Hob-goblin"],
    }
    assert metrics.score("triviaqa", "Puck", answer).em == 0.0
    assert metrics.score("triviaqa", "Robin Goodfellow", answer).em == 1.0
    assert metrics.score("triviaqa", "hob goblin", answer).em == 1.0
    assert metrics.score("triviaqa", "hobgoblin", answer).em == 0.0


def test_both_schemas_of_the_answer_object_score_alike() -> None:
    official = {"Value": "x", "NormalizedAliases": ["sunset blvd", "sunset boulevard"]}
    hugging_face = {"value": "x", "aliases": [], "normalized_aliases": ["sunset blvd", "sunset boulevard"]}
    for text in ("Sunset Blvd.", "boulevard", "x"):
        assert metrics.score("triviaqa", text, official) == metrics.score("triviaqa", text, hugging_face)


def test_aliases_are_normalised_once_more_when_compared() -> None:
    assert metrics.score("triviaqa", "beatles", ["The Beatles"]).em == 1.0


def test_an_answer_without_aliases_is_refused() -> None:
    for gold in ([], {"NormalizedAliases": []}):
        with pytest.raises(InputError, match="at least one alias"):
            metrics.score("triviaqa", "x", gold)
    with pytest.raises(InputError, match="NormalizedAliases"):
        metrics.score("triviaqa", "x", {"Value": "x"})


def datum(question_id: str, alias: str, pages: tuple[tuple[str, bool], ...] = (), verified: bool = True) -> dict:
    return {
        "QuestionId": question_id,
        "Question": "?",
        "Answer": {"Value": alias, "NormalizedAliases": [alias]},
        "QuestionPartOfVerifiedEval": verified,
        "EntityPages": [{"Filename": name, "DocPartOfVerifiedEval": ok} for name, ok in pages[:1]],
        "SearchResults": [{"Filename": name, "DocPartOfVerifiedEval": ok} for name, ok in pages[1:]],
    }


def file_of(domain: str, *data: dict, verified: bool = False) -> dict:
    return {"Data": list(data), "Domain": domain, "VerifiedEval": verified, "Split": "dev", "Version": 1.0}


def test_wikipedia_domain_has_one_prediction_for_each_question_in_percent() -> None:
    references = file_of("Wikipedia", datum("q1", "puck"), datum("q2", "red car"), datum("q3", "x"))
    result = metrics.evaluate("triviaqa", {"q1": "Puck!", "q2": "car", "other": "y"}, references)
    assert list(result) == ["exact_match", "f1", "common", "denominator", "pred_len", "gold_len"]
    assert result["exact_match"] == pytest.approx(100 / 3)
    assert result["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert (result["common"], result["denominator"], result["pred_len"], result["gold_len"]) == (2, 3, 3, 3)


def test_web_domain_counts_a_question_once_for_each_document() -> None:
    references = file_of(
        "Web", datum("q1", "puck", (("a.txt", True), ("b.txt", True))), datum("q2", "x", (("c.txt", True),))
    )
    result = metrics.evaluate("triviaqa", {"q1--a.txt": "puck", "q1--b.txt": "no", "q2": "x"}, references)
    assert result["denominator"] == 3 and result["common"] == 2
    assert result["exact_match"] == pytest.approx(100 / 3)


def test_verified_files_are_cut_to_the_verified_part_first() -> None:
    data = (
        datum("q1", "puck", (("a.txt", True), ("b.txt", False))),
        datum("q2", "x", (("c.txt", True),), verified=False),
    )
    assert metrics.evaluate("triviaqa", {}, file_of("Web", *data, verified=True))["denominator"] == 1
    assert metrics.evaluate("triviaqa", {}, file_of("Web", *data))["denominator"] == 3
    assert metrics.evaluate("triviaqa", {}, file_of("Wikipedia", *data, verified=True))["denominator"] == 1


def test_a_verified_question_without_a_verified_document_is_a_damaged_file() -> None:
    references = file_of("Web", datum("q1", "puck", (("a.txt", False),)), verified=True)
    with pytest.raises(InputError, match="'q1' is part of the verified set and has no verified document"):
        metrics.evaluate("triviaqa", {}, references)


def test_a_mapping_of_keys_to_answers_is_accepted_and_other_schemas_are_refused() -> None:
    result = metrics.evaluate("triviaqa", {"k": "puck"}, {"k": ["puck"], "l": {"NormalizedAliases": ["x"]}})
    assert result["exact_match"] == 50.0
    with pytest.raises(InputError, match="official TriviaQA schema"):
        metrics.evaluate("triviaqa", {}, {"Data": [{}], "Domain": "Wikipedia"})
    with pytest.raises(InputError, match="no question"):
        metrics.evaluate("triviaqa", {}, file_of("Wikipedia"))


def test_the_oracle_is_a_substring_test_of_raw_aliases_in_the_normalised_prediction() -> None:
    references = file_of("Wikipedia", datum("q1", "puck"), datum("q2", "Puck"))
    result = oracle({"q1": "It was Puck-like", "q2": "It was Puck"}, references)
    assert result["oracle_exact_match"] == 50.0  # the alias "Puck" is compared as it stands, upper case and all
    assert result["denominator"] == 2


@given(TEXTS)
def test_normaliser_follows_the_rule_and_applying_it_twice_changes_nothing_more(text: str) -> None:
    once = normalise_trivia(text)
    assert once == normalise_by_rule(text)
    assert normalise_trivia(once) == normalise_by_rule(once)


@given(TEXTS, ALIASES, st.randoms(use_true_random=False))
def test_alias_order_and_repetition_do_not_matter_and_bounds_hold(
    p: str, aliases: list[str], rnd: random.Random
) -> None:
    score = metrics.score("triviaqa", p, aliases)
    shuffled = [*aliases, aliases[0]]
    rnd.shuffle(shuffled)
    assert score == metrics.score("triviaqa", p, shuffled)
    assert score.em is not None and score.f1 is not None
    assert score.em in (0.0, 1.0) and 0.0 <= score.f1 <= 1.0


@given(TEXTS, ALIASES)
def test_em_one_implies_f1_one_unless_the_prediction_is_empty(prediction: str, aliases: list[str]) -> None:
    score = metrics.score("triviaqa", prediction, [*aliases, prediction])
    assert score.em == 1.0
    assert score.f1 == (1.0 if normalise_by_rule(prediction) else 0.0)
