"""What a plan says it will cost is the sum of what it will do, and what cannot be asked is a row everywhere."""

from __future__ import annotations

import dataclasses

import pytest
from mplat.core.errors import InputError
from mplat.eval.conditions import PLAIN, Condition
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from planted_models import CHANNELS, LAYER, talking
from recipes import scaled


@pytest.fixture(scope="module")
def model():
    return talking()


def plan_of(model, **changes):
    values = {"per_level": 4, "price_limit": 1, "draws": 3, "controls": ["random", "shuffled_labels"],
              "likelihood": False, "steering": {"sites": ["mixer_out"], "layers": [LAYER]}}  # fmt: skip
    return prepare(EvalConfig.model_validate({**values, **changes}), model)


def test_answers_are_those_of_both_sides_under_all_their_conditions(model, tmp_path):
    plan = plan_of(model)
    assert plan.conditions_at_most == 2 + 3 + 3
    assert plan.answers == 2 * len(plan.development) + 8 * len(plan.test), "development unsteered and steered"
    recipe = scaled(model, CHANNELS, 2.0, LAYER).save(tmp_path / "recipe.json")
    given = plan_of(model, steering={"recipe": recipe}, controls=["random"], doses=[0.5, 2.0], robust=True)
    others = sum(len(other.questions) for other in given.alternatives)
    assert given.answers == (2 + 3 + 2) * len(given.test) + 2 * others, "no search asks development questions"
    asked = plan_of(model, steering={"variant": "none"}, controls=None)
    assert asked.answers == len(asked.test) == 24


def test_tokens_count_the_search_and_each_time_it_is_repeated(model):
    plan, without = plan_of(model), plan_of(model, controls=["random"])
    assert plan.search is not None and without.search is not None and plan.search.tokens == without.search.tokens
    room = plan.config.max_new_tokens
    each = {q.id: len(plan.prompts[q.id].tokens) + room for q in (*plan.development, *plan.test)}
    asked = 2 * sum(each[q.id] for q in plan.development) + 8 * sum(each[q.id] for q in plan.test)
    assert plan.tokens == asked + 4 * plan.search.tokens, "once, and on three deals of shuffled answers"
    asked = 2 * sum(each[q.id] for q in plan.development) + 5 * sum(each[q.id] for q in plan.test)
    assert without.tokens == asked + without.search.tokens


def test_what_cannot_be_asked_is_no_work_and_a_row_in_every_condition(model):
    plan = plan_of(model, steering={"variant": "none"}, controls=None)
    refused = plan.test[0].id
    plan = dataclasses.replace(plan, refused={refused: ("too_long", "far too long")})
    assert plan.answers == len(plan.test) - 1
    other = Condition("steered", "steered", scaled(model, CHANNELS, 2.0, LAYER))
    assert refused not in {item["question_id"] for item in plan.items(plan.test, "test", [PLAIN, other])}
    rows = plan.refused_rows(plan.test, "test", [PLAIN, other])
    assert [(r["question_id"], r["condition"], r["status"]) for r in rows] == [
        (refused, "unsteered", "too_long"), (refused, "steered", "too_long"),
    ]  # fmt: skip


def test_a_side_whose_questions_are_all_refused_ends_the_plan(model):
    with pytest.raises(InputError, match="none of the 24 questions can be asked and scored"):
        plan_of(model, steering={"variant": "none"}, controls=None, max_prompt_tokens=8)
    with pytest.raises(InputError, match="fell on the (development|test) side of the split"):
        plan_of(model, max_prompt_tokens=8)
