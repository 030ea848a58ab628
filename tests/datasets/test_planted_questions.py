"""What planted models are asked, as questions and as factual prompts: analyses take them, and answers are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mplat.datasets.factual import locate
from mplat.datasets.planted import planted_facts, planted_questions
from mplat.datasets.records import from_table, to_table
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.engine.questions import encode
from mplat.models import load
from mplat.models.planted import find_planted

NAME = "planted-two-hop-mamba2"


def test_a_question_is_a_prompt_whose_answer_is_one_token() -> None:
    model, planted = load(NAME), find_planted(NAME)
    questions, prompts = planted_questions(NAME, 6, seed=3), planted.prompts(6, seed=3)
    assert from_table(to_table(questions)) == questions
    encoded = encode(model, questions, max_tokens=100)
    assert not encoded.excluded
    for question, item, prompt in zip(questions, encoded.items, prompts, strict=True):
        assert item.prompt == tuple(planted.words.index(word) for word in prompt.words)
        assert item.answer == (planted.words.index(prompt.answer),)
        assert question.source()["places"] == dict(prompt.places) and question.category == "two_hop"


@pytest.mark.parametrize("place", [None, "query"])
def test_the_subject_of_a_fact_is_the_word_at_the_place(place: str | None) -> None:
    tokenizer = load(NAME).tokenizer
    assert tokenizer is not None
    for fact, pair in zip(planted_facts(NAME, 6, place=place), find_planted(NAME).pairs(6, place=place), strict=True):
        at = pair.clean.at(place or "value")
        assert locate(fact, tokenizer).subject == (at, at + 1)
        assert (fact.answer, fact.other_answer) == (pair.clean.answer, pair.corrupted.answer)


def test_a_planted_model_is_asked_its_own_prompts_where_nothing_is_named(tmp_path: Path) -> None:
    model = load(NAME)
    values: dict[str, Any] = {"model": NAME, "per_level": 1, "steps": ("logit_lens", "attribution"), "limit": 2}
    found = run_steps(model, config=config_model().model_validate(values), cache=Cache(tmp_path))
    rows = found["logit_lens"].tables["prompts"].to_pylist()
    assert {row["id"] for row in rows} == {fact.id for fact in planted_facts(NAME, 2)}
    last = [row for row in rows if row["layer"] == model.n_layers - 1]
    assert all(row["status"] == "ok" for row in rows) and last
    assert found["attribution"].rows > 0
