"""How likely answers are in an evaluation: equal to teacher forcing on the same prompts, and null where unknown."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from mplat.datasets import facts
from mplat.eval import likelihoods
from mplat.eval.answers import AnswerWorker, layout_of
from mplat.eval.conditions import PLAIN, Condition
from mplat.eval.eval_config import EvalConfig
from mplat.eval.likelihoods import COLUMNS, columns_of
from mplat.eval.planning import prepare
from mplat.models import Scale, load
from mplat.steering import Part, Recipe
from mplat.steering.answered import ask, batches, score_all
from planted_models import talking
from recipes import scaled

ARCHITECTURES = ("mamba", "mamba2")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return talking(request.param)


def plan_of(model, **changes):
    settings = {"per_level": 3, "steering": {"variant": "none"}, "price_limit": 1, "batch_size": 4, **changes}
    return prepare(EvalConfig.model_validate(settings), model)


def rows_of(model, recipe=None, **changes):
    condition = PLAIN if recipe is None else Condition("steered", "steered", recipe)
    plan = plan_of(model, **changes)
    items = plan.items(plan.test, "test", [condition])
    worker = AnswerWorker(model, [condition], 6, ["\n"])
    return {row["question_id"]: row for at in range(0, len(items), 4)
            for row in worker.run({"items": items[at : at + 4]}).to_pylist()}  # fmt: skip


def recipes(model):
    loud = scaled(model, (1, 2, 3), 4.0, 0)
    late = Recipe((Part("scale_channels", "mixer_out", (1,), 3.0, channels=(3, 11), phase="decode"),), model.digest)
    last = Recipe((Part("scale_channels", "mixer_out", (0,), 5.0, channels=(1,), positions="last"),), model.digest)
    there = Recipe(
        (Part("scale_channels", "mixer_out", (0,), 50.0, channels=(1, 3), positions="question"),), model.digest
    )
    return {"loud": loud, "decode": late, "last": last, "question": there}


def test_they_are_those_of_teacher_forcing_as_the_search_scores_it(model):
    asked = facts.prompts(per_level=3, seed=0)
    for recipe in (None, recipes(model)["loud"]):
        rows = rows_of(model, recipe)
        known = ask(model, asked)
        expected = score_all(model, batches(known), [] if recipe is None else recipe.edits(model))
        assert len(known) == len(rows) == 18
        for item, logprob in zip(known, expected.logprob.tolist(), strict=True):
            assert rows[item.id]["answer_logprob"] == pytest.approx(logprob, abs=2e-4)
            n_bytes = len(f" {rows[item.id]['answers'][0]}\n")
            assert rows[item.id]["answer_logprob_per_byte"] == rows[item.id]["answer_logprob"] / n_bytes


@pytest.mark.parametrize("name", ["tiny-striped-hyena", "tiny-moe-mamba"])
def test_models_that_remember_more_than_a_state_say_the_same(name):
    """Attention keeps its texts, experts see other neighbours in another batch."""
    shipped = load(name)
    rows, known = rows_of(shipped), ask(shipped, facts.prompts(per_level=3, seed=0))
    expected = score_all(shipped, batches(known)).logprob.tolist()
    assert [rows[item.id]["answer_logprob"] for item in known] == pytest.approx(expected, abs=1e-4)
    assert {row["likelihood_status"] for row in rows.values()} == {"ok"}


@pytest.mark.parametrize("name", ["decode", "last", "question"])
def test_recipes_for_some_positions_or_one_phase_act_as_they_do_on_what_is_generated(model, name):
    """Token by token: what is fed is fed one at a time, from the state behind the prompt alone."""
    recipe = recipes(model)[name]
    rows = rows_of(model, recipe)
    plan = plan_of(model)
    changed = 0
    for item in plan.items(plan.test, "test", [PLAIN])[:6]:
        totals = []
        for ids in item["choices"]:
            with torch.no_grad(), model.edit(*recipe.edits(model, [layout_of(item)])):
                logits, state = model(torch.tensor([item["tokens"]]), return_state=True, phase="prefill")
                anchor, total = state.position, 0.0
                for token in ids:
                    total += float(logits[0, -1].double().log_softmax(-1)[token])
                    logits, state = model(torch.tensor([[token]]), state=state, return_state=True, phase="decode",
                                          anchor=anchor)  # fmt: skip
            totals.append(total)
        row = rows[item["question_id"]]
        assert row["answer_logprob"] == pytest.approx(totals[0], abs=2e-4)
        assert row["distractor_logprob"] == pytest.approx(max(totals[1:]), abs=2e-4)
        assert row["beats_distractors"] == float(totals[0] > max(totals[1:])) and row["n_distractors"] == 4
        changed += abs(totals[0] - rows_of_plain(model)[item["question_id"]]["answer_logprob"]) > 1e-3
    assert changed > 3, "the recipe does something"


_PLAIN: dict[str, dict] = {}


def rows_of_plain(model):
    if model.digest not in _PLAIN:
        _PLAIN[model.digest] = rows_of(model)
    return _PLAIN[model.digest]


def test_answers_are_the_same_without_them_and_their_columns_are_null_then(model):
    with_them, without = rows_of_plain(model), rows_of(model, likelihood=False)
    for name, row in without.items():
        assert {key: value for key, value in with_them[name].items() if key not in COLUMNS} == {
            key: value for key, value in row.items() if key not in COLUMNS
        }
        assert all(row[column] is None for column in COLUMNS)
        assert with_them[name]["likelihood_status"] == "ok"


def test_scores_that_are_not_finite_are_a_status_and_no_number(model):
    with model.edit(Scale("logits", 1e38), Scale("logits", 1e38)):
        rows = rows_of(model).values()
    for row in rows:
        assert row["likelihood_status"] == "model_nonfinite"
        assert all(row[column] is None for column in COLUMNS if column != "likelihood_status")


def test_what_cannot_be_scored_is_null_with_its_status_beside_answers_that_can(model):
    plan = plan_of(model)
    items = plan.items(plan.test, "test", [PLAIN])[:4]
    items[1] |= {"choices": [], "choices_status": "no_answer"}
    items[2] |= {"choices": items[2]["choices"][:1]}
    rows = AnswerWorker(model, [PLAIN], 6, ["\n"]).run({"items": items}).to_pylist()
    expected = rows_of_plain(model)
    assert [row["likelihood_status"] for row in rows] == ["ok", "no_answer", "ok", "ok"]
    assert rows[1]["answer_logprob"] is None and rows[1]["status"] == "ok" and rows[1]["em"] is not None
    alone = rows[2]
    assert alone["answer_logprob"] == pytest.approx(expected[alone["question_id"]]["answer_logprob"], abs=1e-4)
    assert (alone["n_distractors"], alone["distractor_logprob"], alone["beats_distractors"]) == (0, None, None)


def test_what_fails_in_scoring_costs_the_likelihood_of_its_item_alone(model, monkeypatch):
    plan = plan_of(model)
    items = plan.items(plan.test, "test", [PLAIN])[:3]
    bad = tuple(items[1]["choices"][0])
    real = likelihoods.continued

    def fails(model, scores, state, wanted, batch_size):
        if any(ids == bad for _, ids in wanted):
            raise RuntimeError("broken")
        return real(model, scores, state, wanted, batch_size)

    monkeypatch.setattr(likelihoods, "continued", fails)
    rows = AnswerWorker(model, [PLAIN], 6, ["\n"]).run({"items": items}).to_pylist()
    assert [row["likelihood_status"] for row in rows] == ["ok", "scorer_error", "ok"]
    assert [row["likelihood_reason"] for row in rows] == [None, "RuntimeError: broken", None]
    assert rows[1]["answer_logprob"] is None and [row["status"] for row in rows] == ["ok"] * 3


def test_as_likely_as_a_distractor_is_not_likelier():
    item = {"choices": [[1], [2], [3]], "choices_status": "ok", "answer_bytes": 4}
    tie, ahead, behind = (columns_of(item, [-1.0, *others]) for others in ([-1.0, -2.0], [-1.5, -2.0], [-0.5]))
    assert [row["beats_distractors"] for row in (tie, ahead, behind)] == [0.0, 1.0, 0.0]
    assert [row["distractor_logprob"] for row in (tie, ahead, behind)] == [-1.0, -1.5, -0.5]
    assert {row["n_distractors"] for row in (tie, ahead, behind)} == {2}, "also those that were not read to the end"


def test_refused_questions_have_the_status_of_their_row(model):
    plan = plan_of(model)
    refused = dataclasses.replace(plan, refused={plan.test[0].id: ("too_long", "long")})
    (row,) = refused.refused_rows(plan.test[:1], "test", [PLAIN])
    assert row["likelihood_status"] == row["status"] == "too_long"
    silent = plan_of(model, likelihood=False)
    silent = dataclasses.replace(silent, refused=refused.refused)
    assert silent.refused_rows(plan.test[:1], "test", [PLAIN])[0]["likelihood_status"] is None


def test_the_plan_counts_what_is_fed(model):
    plan = plan_of(model)
    more = plan.tokens - plan_of(model, likelihood=False).tokens
    items = plan.items(plan.test, "test", [PLAIN])
    assert more == sum(len(ids) - 1 for item in items for ids in item["choices"]) > 0
    assert math.isfinite(sum(row["answer_logprob"] for row in rows_of_plain(model).values()))
