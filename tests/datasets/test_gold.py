"""The gold of a question has the form that its metric asks for, and there is none where nothing can be scored."""

from __future__ import annotations

import pytest
from mplat.datasets.prompting.gold import missing_gold
from mplat.datasets.records import Date, Question, TypedAnswer
from mplat.scoring import metrics


def question(metric: str, *answers: str, **changes: object) -> Question:
    return Question("q", "d", "dev", "Who?", answers=answers, metric=metric, **changes)


TYPED = (TypedAnswer(number="3"), TypedAnswer(date=Date("8", "March", "2010")), TypedAnswer(spans=("a", "b")))
OBJECTS = [
    {"number": "3", "date": {"day": "", "month": "", "year": ""}, "spans": []},
    {"number": "", "date": {"day": "8", "month": "March", "year": "2010"}, "spans": []},
    {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["a", "b"]},
]


@pytest.mark.parametrize(
    ("asked", "gold"),
    [
        (question("squad_v1", "Rome", "Rome"), ["Rome", "Rome"]),
        (question("squad_v2", "Rome", answerable=True), ["Rome"]),
        (question("squad_v2", answerable=False), []),
        (question("squad_v2"), None),  # no answer, and nothing that says there is none
        (question("hotpotqa", "yes"), "yes"),
        (question("musique", "Rome", "Roma", answerable=True), ["Rome", "Roma"]),
        (question("musique", "Rome", answerable=False), None),  # the official mean is over answerable ones
        (question("triviaqa", "The U.S.", "U.S."), ["u s"]),
        (question("nq_open", "one", "two"), ["one", "two"]),
        (question("nq_open", answerable=False), None),
        (question("drop", "3", "8 March 2010", "a and b", typed_answers=TYPED), OBJECTS),
        (question("drop", "3"), None),
        (question("a metric of tomorrow", "x"), ["x"]),
        (question("squad_v1", " ", ""), None),
    ],
)
def test_the_gold_has_the_form_of_the_metric(asked: Question, gold: object) -> None:
    assert asked.gold() == gold
    assert (gold is None) == bool(missing_gold(asked))


def test_the_first_answer_scores_fully_under_every_registered_metric() -> None:
    asked = {
        "squad_v1": question("squad_v1", "Rome", "Milan"),
        "squad_v2": question("squad_v2", "Rome", answerable=True),
        "hotpotqa": question("hotpotqa", "Rome"),
        "triviaqa": question("triviaqa", "Rome"),
        "musique": question("musique", "Rome", "Roma"),
        "nq_open": question("nq_open", "Rome"),
        "drop": question("drop", "Rome", typed_answers=(TypedAnswer(spans=("Rome",)),)),
    }
    registered = set(metrics.names()) & asked.keys()
    assert {"squad_v1", "hotpotqa", "triviaqa"} <= registered
    for name in registered:
        assert metrics.score(name, "Rome", asked[name].gold()).em == 1.0, name
        assert metrics.score(name, "Paris", asked[name].gold()).em == 0.0, name


def test_the_texts_of_a_typed_answer_are_the_first_kind_that_it_has() -> None:
    assert TypedAnswer("3", Date("8"), ("a",)).texts() == ("3",)
    assert TypedAnswer(" ", Date("8"), ("a", " ", "b")).texts() == ("a", "b")
    assert TypedAnswer(date=Date(month="March", year="2010")).texts() == ("March 2010",)
    assert TypedAnswer().texts() == TypedAnswer(spans=("",)).texts() == ()
