"""The answering worker: one row for every item, whatever happens to its neighbours."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.eval import answers
from mplat.eval.answers import AnswerWorker, judge
from mplat.eval.conditions import PLAIN, Condition
from mplat.eval.schema import ITEM_SCHEMA
from mplat.models import Generation, Scale, generate
from planted_models import talking
from recipes import scaled


@pytest.fixture(scope="module")
def model():
    return talking("mamba2")


@pytest.fixture(scope="module")
def recipe(model):
    return scaled(model, (1, 2, 3), 4.0, 0)


def item(name, tokens, condition="unsteered", **changes):
    made = {
        "question_id": name, "dataset": "d", "category": "c", "level": None, "split": "test", "model": "m",
        "variant": "v", "metric": "squad_v1", "answers": ["x"], "tokens": tokens, "n_cut_tokens": 0,
        "condition": condition,
    } | changes  # fmt: skip
    return made | {"gold": json.dumps(made["answers"])}


def worker(model, *conditions):
    return AnswerWorker(model, [PLAIN, *conditions], 5, ["\n"])


def by_id(table: pa.Table) -> dict:
    return {row["question_id"]: row for row in table.to_pylist()}


def test_rows_are_what_generation_and_metric_say(model, recipe):
    steered = Condition("steered", "steered", recipe)
    prompts = [[5, 6, 7], [8, 9, 10, 11], [12, 13]]
    plain = generate(model, prompts, max_new_tokens=5)
    with model.edit(*recipe.edits(model)):
        expected = generate(model, prompts, max_new_tokens=5)
    assert [g.tokens for g in plain] != [g.tokens for g in expected]
    items = [item(f"q{i}", p, "steered", answers=[expected[i].text.strip()]) for i, p in enumerate(prompts)]
    table = worker(model, steered).run({"items": items})
    assert table.schema == ITEM_SCHEMA
    assert table["question_id"].to_pylist() == ["q0", "q1", "q2"], "in the order of the items"
    for row, said, prompt in zip(table.to_pylist(), expected, prompts, strict=True):
        assert row["prediction"] == said.text.strip() and row["em"] == 1.0 and row["status"] == "ok"
        assert (row["n_prompt_tokens"], row["n_new_tokens"]) == (len(prompt), len(said.tokens))
        assert (row["operator"], row["layer"], row["strength"]) == ("scale_channels", 0, 4.0)
        assert row["stop_reason"] == said.stop_reason


def test_an_identity_recipe_gives_bit_identical_predictions(model, recipe):
    identity = Condition("steered", "steered", recipe.scaled(0))
    items = [item(f"q{i}", [7 + i, 8, 9]) for i in range(4)]
    plain = worker(model).run({"items": items})
    steered = worker(model, identity).run({"items": [i | {"condition": "steered"} for i in items]})
    for column in ("prediction", "em", "f1", "n_new_tokens"):
        assert plain[column] == steered[column]
    tokens = torch.tensor([[5, 6, 7, 8]])
    with model.edit(*identity.recipe.edits(model)):  # type: ignore[union-attr]
        assert torch.equal(model(tokens), model.forward(tokens))
        edited = model(tokens)
    assert torch.equal(edited, model(tokens))


def test_several_conditions_in_one_batch_are_each_their_own(model, recipe):
    steered = Condition("steered", "steered", recipe)
    items = [item("a", [5, 6, 7]), item("b", [8, 9]), item("a", [5, 6, 7], "steered")]
    together = worker(model, steered).run({"items": items}).to_pylist()
    alone = worker(model, steered).run({"items": items[2:]}).to_pylist()
    assert together[2] == alone[0]
    assert [r["family"] for r in together] == ["unsteered", "unsteered", "steered"]


def test_f7_a_poison_item_costs_itself(model):
    """A token that the model does not have raises for the whole batch; its neighbours are answered all the same."""
    items = [item("good", [5, 6, 7]), item("poison", [5, 10**6, 7]), item("fine", [8, 9, 10])]
    rows = by_id(worker(model).run({"items": items}))
    assert rows["poison"]["status"] == "bad_input" and "1000000" in rows["poison"]["reason"]
    assert rows["poison"]["em"] is None and rows["poison"]["prediction"] is None
    alone = by_id(worker(model).run({"items": [items[0]]}))
    assert rows["good"] == alone["good"] and rows["fine"]["status"] == "ok"


def test_the_gold_that_was_compared_with_is_in_the_row_and_need_not_be_the_answers(model):
    (said,) = generate(model, [[5, 6]], max_new_tokens=5)
    other = item("a", [5, 6], answers=["shown, not compared with"]) | {"gold": json.dumps([said.text.strip()])}
    (row,) = worker(model).run({"items": [other]}).to_pylist()
    assert row["em"] == 1.0 and json.loads(row["gold"]) == [said.text.strip()]
    assert row["answers"] == ["shown, not compared with"]


def test_f7_a_scorer_that_raises_costs_one_row(model):
    items = [item("a", [5, 6]), item("b", [5, 7], metric="absent"), item("c", [5, 8], answers=[])]
    rows = by_id(worker(model).run({"items": items}))
    assert {name: row["status"] for name, row in rows.items()} == {"a": "ok", "b": "scorer_error", "c": "scorer_error"}
    assert "absent" in rows["b"]["reason"] and rows["b"]["prediction"] is not None


def test_i7_scores_that_are_not_finite_are_a_status_not_an_answer(model):
    with model.edit(Scale("logits", 1e38), Scale("logits", 1e38)):
        rows = worker(model).run({"items": [item("a", [5, 6])]}).to_pylist()
    assert (rows[0]["status"], rows[0]["em"], rows[0]["prediction"]) == ("model_nonfinite", None, None)


def test_what_is_wrong_with_every_item_ends_the_run(model, monkeypatch):
    def unfit(*args, **kwargs):
        raise UsageError("edit never fired")

    monkeypatch.setattr(answers, "generate", unfit)
    with pytest.raises(UsageError, match="never fired"):
        worker(model).run({"items": [item("a", [5, 6]), item("b", [5])]})


def test_a_recipe_of_another_model_is_refused_before_any_item(recipe):
    with pytest.raises(InputError, match="was found on the model with digest"):
        worker(talking("mamba2", seed=4), Condition("steered", "steered", recipe))


def test_a_worker_refuses_model_files_that_are_not_those_of_the_plan(model, tmp_path):
    model.save(tmp_path)
    made = answers.make_worker(str(tmp_path), model.digest, [PLAIN.to_dict()], 3, ["\n"])
    assert made.run({"items": [item("a", [5, 6])]}).num_rows == 1
    talking("mamba2", seed=4).save(tmp_path)
    with pytest.raises(UsageError, match="this run's model has 000000000000"):
        answers.make_worker(str(tmp_path), "0" * 64, [], 3, ["\n"])


def test_a_metric_without_f1_leaves_it_null():
    row = judge(Generation(" x", (1,), "stop"), "squad_v1", ["x"])
    assert row["em"] == 1.0 and row["f1"] == 1.0 and row["reason"] is None
