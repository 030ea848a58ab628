"""The battery asked of a model: rows, intervals, and what steering does to them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.datasets.records import to_table
from mplat.eval.battery import BATTERY_SCHEMA, answers, assess, in_words, questions, summarise
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.models import load
from mplat.scoring.statistics import wilson
from pyarrow import parquet
from recipes import scaled

MODEL = load("tiny-mamba")
WHOLE = tuple(range(128))


@pytest.fixture(scope="module")
def table():
    return harmed(12)


def harmed(per_task: int):
    """The battery asked of a model, and of the same with a layer that says nothing."""
    return assess(MODEL, scaled(MODEL, WHOLE, 0.0, 2), tasks=["levels", "needle"], per_task=per_task)


def share(table, condition: str, category: str) -> float:
    (row,) = [r for r in table.to_pylist() if (r["condition"], r["category"]) == (condition, category)]
    assert (row["n"], row["n_failed"]) == (12, 0) and row["low"] <= row["accuracy"] <= row["high"]
    return row["accuracy"]


@pytest.mark.slow
def test_the_shipped_model_recalls_near_facts_and_no_far_ones(table):
    assert table.schema == BATTERY_SCHEMA and len(table) == 2 * (6 + 5)
    assert share(table, "unsteered", "simple_recall") >= 0.9
    assert share(table, "unsteered", "needle_0") >= 0.5 > 0.2 >= share(table, "unsteered", "needle_512")


@pytest.mark.slow
def test_a_recipe_that_removes_a_layer_is_seen(table):
    assert share(table, "steered", "simple_recall") < share(table, "unsteered", "simple_recall") - 0.3


def test_a_row_is_the_share_of_right_answers_with_wilsons_interval():
    asked = questions(["levels"], 3)
    items = answers(MODEL, asked)
    assert [row["question_id"] for row in items.to_pylist()] == [q.id for q in asked]
    first = summarise(items, confidence=0.9).to_pylist()[0]
    expected = wilson([row["em"] for row in items.to_pylist()[:3]], confidence=0.9)
    assert (first["n"], first["accuracy"], first["low"], first["high"]) == tuple(expected)
    assert first["task"] == "levels" and first["category"] == "simple_recall" and first["recipe_digest"] is None


def test_an_answer_does_not_depend_on_its_batch():
    asked = questions(["associative_recall", "format_following"], 1)
    assert answers(MODEL, asked, batch_size=1).to_pylist() == answers(MODEL, asked, batch_size=7).to_pylist()


def test_strength_1_gives_the_same_answers():
    asked = questions(["levels"], 2)
    plain, same = (answers(MODEL, asked, recipe) for recipe in (None, scaled(MODEL, WHOLE, 1.0, 2)))
    assert [row["prediction"] for row in plain.to_pylist()] == [row["prediction"] for row in same.to_pylist()]


def test_steering_at_the_evidence_acts_there_and_a_prompt_without_any_is_no_zero():
    recipe = scaled(MODEL, WHOLE, -9.0, 0, positions="evidence")
    asked = questions(["needle", "format_following"], 6)
    steered = answers(MODEL, asked, recipe).to_pylist()
    needle = [row for row in steered if row["category"] == "needle_0"]
    rules = [row for row in steered if row["category"] == "format_lower"]
    assert all(row["status"] == "ok" for row in needle) and sum(row["em"] for row in needle) <= 1
    assert {(row["status"], row["em"]) for row in rules} == {("bad_input", None)}
    (row,) = [row for row in summarise(answers(MODEL, asked[-2:], recipe)).to_pylist()]
    assert (row["n"], row["n_failed"], row["accuracy"]) == (0, 2, None)


def test_a_prompt_that_is_too_long_has_no_score():
    rows = summarise(answers(MODEL, questions(["copying"], 2), max_prompt_tokens=32)).to_pylist()
    by_category = {row["category"]: (row["n"], row["n_failed"]) for row in rows}
    assert by_category["copy_1"] == (2, 0) and by_category["copy_16"] == (0, 2)


def test_scores_that_are_not_finite_are_failures():
    broken = load("tiny-mamba")
    with torch.no_grad():
        broken.backbone.norm_f.weight.fill_(float("nan"))
    (row,) = summarise(answers(broken, questions(["levels"], 2)[:2])).to_pylist()
    assert (row["n"], row["n_failed"], row["accuracy"]) == (0, 2, None)


@pytest.mark.slow
def test_in_words_conditions_stand_side_by_side():
    table = harmed(2)
    shown = in_words(table)
    assert table.schema == BATTERY_SCHEMA
    assert list(shown.columns) == ["task", "category", "n", "failed", "unsteered", "steered"] and len(shown.rows) == 11
    assert "needle_512" in str(shown) and all("[" in str(cell) for row in shown.rows for cell in row[4:])


def test_the_ordinary_evaluation_can_ask_them(tmp_path):
    asked = questions(["associative_recall", "format_following", "needle"], 2)
    parquet.write_table(to_table(asked), tmp_path / "battery.parquet")
    config = EvalConfig(model="tiny-mamba", questions=tmp_path / "battery.parquet", max_prompt_tokens=2048)
    plan = prepare(config.model_copy(update={"steering": config.steering.model_copy(update={"variant": "none"})}))
    assert plan.refused == {} and {q.id for q in plan.test} == {q.id for q in asked}


def test_what_cannot_be_assessed_is_refused():
    other = dataclasses.replace(scaled(MODEL), model_digest="0" * 64)
    with pytest.raises(InputError, match="found on the model with digest"):
        assess(MODEL, other, tasks=["levels"], per_task=1)
    bare = load("tiny-mamba")
    bare.tokenizer = None
    with pytest.raises(UsageError, match="has no tokenizer"):
        assess(bare, tasks=["levels"], per_task=1)
    with pytest.raises(UsageError, match="at least one question"):
        answers(MODEL, questions(["levels"], 1), batch_size=0)
