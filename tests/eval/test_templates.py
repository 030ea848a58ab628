"""Prompt templates: every registered one keeps to the same rules, and says how its data set is asked."""

from __future__ import annotations

import dataclasses

import pytest
from mplat.core.errors import UsageError
from mplat.datasets.prompting import template as registry
from mplat.datasets.prompting import templates
from mplat.datasets.prompting.prompts import TEMPLATE_DIGEST, prompt_text, render, unusable
from mplat.datasets.prompting.templates import Template
from mplat.datasets.records import Paragraph, Question
from mplat.eval.answers import judge
from mplat.models import Generation

CONTEXT = (Paragraph("Mira", ("Mira lives {there}. ", "She is old.")), Paragraph("", ("Oslo is a town.",)))
ALL = templates.names()


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def question(dataset="facts", **changes) -> Question:
    made = Question("q", dataset, "dev", "Who {lives} in Oslo?", CONTEXT, ("Mira",), "squad_v1")
    return dataclasses.replace(made, **changes)


def text(prompt) -> str:
    return "".join(map(chr, prompt.tokens))


def test_the_data_sets_of_this_package_have_a_template():
    assert {"squad", "squad_v2", "hotpotqa", "musique", "triviaqa", "natural_questions", "drop", "facts"} <= set(ALL)


def test_templates_differ_and_the_facts_world_has_the_plain_one():
    digests = {name: templates.find(name).digest for name in ALL}
    assert digests["facts"] == TEMPLATE_DIGEST == Template().digest
    assert len(set(digests.values())) >= len(ALL) - 1  # HotpotQA and MuSiQue need not differ by much, but they do
    assert templates.template_for("never_heard_of") is registry.PLAIN


def test_a_ready_prompt_has_no_template():
    made = render(question("squad", prompt=" A.\nQ: B?\nA:"), encode, 100)
    assert (text(made), made.template) == (" A.\nQ: B?\nA:", "")


def test_titles_are_told_where_there_are_titles():
    assert "Mira: Mira lives" in prompt_text(question("hotpotqa"))
    assert "\nOslo is a town." in prompt_text(question("hotpotqa"))
    assert "Mira\n" not in prompt_text(question("facts"))


def test_another_template_can_be_named():
    plain = templates.find("facts")
    assert prompt_text(question("squad"), plain) == prompt_text(question("facts"))
    assert render(question("squad"), encode, 1000, plain).template == TEMPLATE_DIGEST
    with pytest.raises(UsageError, match="did you mean 'squad'"):
        templates.find("sqad")


def test_a_question_without_an_answer_is_told_what_to_write_where_its_metric_scores_that():
    known = {"squad_v1", "squad_v2"}
    nothing = question("squad_v2", answers=(), answerable=False, metric="squad_v2")
    assert unusable(nothing, known) == ""
    assert templates.find("squad_v2").no_answer in prompt_text(nothing)
    assert unusable(question("squad", answers=(), metric="squad_v1"), known) == "no answer is given"


def test_the_agreed_word_is_scored_as_writing_nothing(monkeypatch):
    scored = []
    monkeypatch.setattr("mplat.eval.answers.score", lambda m, said, gold: scored.append(said) or templates_score(said))
    for said in ("unanswerable", " Unanswerable.", "unanswerable, I think", "Mira"):
        row = judge(Generation(said, (1,), "stop"), "squad_v2", [], "unanswerable")
        assert row["prediction"] == said.strip(), "the table keeps what was written"
    assert scored == ["", "", "unanswerable, I think", "Mira"]
    judge(Generation("unanswerable", (1,), "stop"), "squad_v1", ["x"])
    assert scored[-1] == "unanswerable", "it means something only where the prompt said so"


def templates_score(said):
    from mplat.scoring.metrics import Score

    return Score(em=float(not said), f1=float(not said))


def test_a_name_cannot_be_taken_twice():
    class Other(Template):
        pass

    with pytest.raises(UsageError, match="two prompt templates are called"):
        templates.template("squad")(Other)
