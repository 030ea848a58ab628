"""What the model reads for a question."""

from __future__ import annotations

import hashlib

import pytest
from mplat.datasets import facts
from mplat.datasets.prompting.prompts import TEMPLATE_DIGEST, render, unusable
from mplat.datasets.records import Paragraph, Question, TypedAnswer


def encode(text: str) -> list[int]:
    """One token per character: easy to count by hand."""
    return [ord(c) for c in text]


def text(prompt) -> str:
    return "".join(map(chr, prompt.tokens))


def question(**changes):
    values = {"id": "q", "dataset": "d", "split": "s", "question": "Who?", "answers": ("x",), "metric": "squad_v1"}
    return Question(**{**values, **changes})


def test_a_ready_prompt_is_given_as_it_is():
    asked = facts.prompts(per_level=1, seed=0)[0]
    assert text(render(asked, encode, 10_000)) == asked.prompt


def test_context_then_question_then_cue():
    context = (Paragraph("T", ("One. ", "Two.")), Paragraph("", ("Three.",)))
    assert text(render(question(context=context), encode, 100)) == " One. Two.\nThree.\nQ: Who?\nA:"
    assert text(render(question(), encode, 100)) == "Q: Who?\nA:"


def test_the_context_is_cut_from_the_left_to_the_budget_and_the_question_never():
    context = (Paragraph("", ("abcdefghij",)),)
    whole = render(question(context=context), encode, 100)
    asked = len("\nQ: Who?\nA:")
    for budget in range(asked, len(whole.tokens) + 1):
        cut = render(question(context=context), encode, budget)
        assert cut.status == "ok" and cut.tokens == whole.tokens[-budget:]
        assert cut.cut_tokens == len(whole.tokens) - budget
        assert text(cut).endswith("\nQ: Who?\nA:")
    assert render(question(context=context), encode, asked - 1).status == "too_long"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"question": "   "}, "bad_input"),
        ({"question": ""}, "bad_input"),
        ({"prompt": " \n"}, "bad_input"),
        ({"question": "w" * 100_000}, "too_long"),
        ({"prompt": "p" * 101}, "too_long"),
        ({"question": "\U0001f600"}, "ok"),
        ({"question": "\u0645\u0646\u061f"}, "ok"),
    ],
)
def test_questions_that_cannot_be_asked_have_a_status_and_a_reason(changes, status):
    found = render(question(**changes), encode, 100)
    assert found.status == status
    assert (found.tokens == []) == (status != "ok") == bool(found.reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"answers": ()}, "no answer is given"),
        ({"answers": (" ", "")}, "no answer is given"),
        ({"answerable": False}, "the data set marks it as not answerable from its context"),
        ({"answers": (), "answerable": False, "metric": "squad_v2"}, ""),
        ({"answers": (), "metric": "squad_v2"}, "no answer is given"),
        ({"metric": "drop"}, "no typed answer is given"),
        ({"metric": "drop", "typed_answers": (TypedAnswer(number="3"),)}, ""),
        ({"metric": ""}, "no answer metric is named"),
        ({"metric": "bleu"}, "no answer metric 'bleu'"),
    ],
)
def test_questions_that_cannot_be_scored_have_a_reason(changes, reason):
    assert unusable(question(**changes), {"squad_v1", "squad_v2", "drop"}) == reason


def test_the_template_is_named_by_the_digest_of_its_texts():
    """Every accuracy depends on these texts: whoever changes one changes it here too, on purpose."""
    texts = " {context}\0\nQ: {question}\nA:\0Q: {question}\nA:"
    assert TEMPLATE_DIGEST == hashlib.sha256(texts.encode()).hexdigest()
