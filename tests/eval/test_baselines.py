"""What a learned state is compared with: other ways to learn from the same examples, in the same run."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import torch
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.records import to_table
from mplat.eval import baselines
from mplat.eval.answers import AnswerWorker
from mplat.eval.baselines import BaselineWorker, Taught, state_of_prefix, taught_by
from mplat.eval.changed_weights import changed_weights, from_plain, to_plain
from mplat.eval.conditions import PLAIN, Condition
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.eval.side_effects import PriceWorker
from mplat.models import load
from mplat.runtime import open_session, read_table
from mplat.steering import Recipe
from mplat.steering.learned import Example, learn_lora, learn_prefix, learn_state, rows_of
from planted_models import TOKENIZER, talking
from recipes import scaled
from transformers import PreTrainedTokenizerFast

FEW = 4  # steps


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    talking("mamba2").save(folder / "model")
    pq.write_table(to_table(facts.prompts(per_level=6, seed=2)), folder / "questions.parquet")
    return folder


@pytest.fixture(scope="module")
def model(place):
    return load(place / "model")


def settings(place, **changes):
    values = {"questions": place / "questions.parquet", "max_new_tokens": 3, "price_limit": 2, "resamples": 200,
              "development_share": 0.5, "likelihood": False,
              "steering": {"recipe": place / "learned.json"}}  # fmt: skip
    return EvalConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def learned(place, model):
    """A state learned from the questions of the development side."""
    scaled(model, (1,), 2.0, 0).save(place / "other.json")
    plan = prepare(settings(place, steering={"recipe": place / "other.json"}, controls=[]), model)
    examples = [Example(q.prompt, f" {q.answers[0]}") for q in plan.development]
    state = learn_state(model, examples[3:], examples[:3], steps=FEW)
    state.recipe.save(place / "learned.json")
    return state.recipe


def run(place, model, out, **changes):
    plan = prepare(settings(place, **changes), model)
    with open_session("none") as session:
        return plan, evaluate(plan, out=out, session=session)


def test_both_are_learned_from_the_same_examples_and_answer_the_same_questions(place, model, learned):
    before = {name: p.clone() for name, p in model.named_parameters()}
    plan, result = run(place, model, place / "run", controls=["lora", "soft_prefix"])
    assert plan.controls == ("lora", "soft_prefix") and plan.conditions_at_most == 4
    rows = read_table(result.out / "items.parquet").to_pylist()
    test = {q.id for q in plan.test}
    for family in ("control_lora", "control_soft_prefix"):
        assert {r["question_id"] for r in rows if r["family"] == family and r["status"] == "ok"} == test
    assert {r["operator"] for r in rows if r["family"] == "control_lora"} == {"weights"}
    assert {r["operator"].split("+")[0] for r in rows if r["family"] == "control_soft_prefix"} == {"learned_state"}
    prices = read_table(result.out / "price.parquet").to_pylist()
    assert {r["family"] for r in prices} >= {"control_lora", "control_soft_prefix"}
    assert all(r["edit_norm"] is None for r in prices if r["family"] == "control_lora"), "no site is edited"
    assert result.summary.missing == {}
    assert "steered-control_lora" in result.summary.overall.em.differences
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()), "the model is what it was"


def test_a_run_that_goes_on_learns_nothing_again(place, model, learned, monkeypatch):
    _, first = run(place, model, place / "twice", controls=["lora"])
    monkeypatch.setattr(baselines, "learn_lora", None)
    _, again = run(place, model, place / "twice", controls=["lora"])
    assert again.summary == first.summary


def test_all_controls_have_them_for_a_learned_state_alone(place, model, learned):
    assert {"lora", "soft_prefix"} <= set(prepare(settings(place), model).controls)
    plan = prepare(settings(place, steering={"recipe": place / "other.json"}), model)
    assert not {"lora", "soft_prefix"} & set(plan.controls)
    _, result = run(place, model, place / "named", steering={"recipe": place / "other.json"}, controls=["lora"])
    assert result.summary.missing["lora"].startswith("only a learned state is compared")
    assert "No control lora: only a learned state" in result.summary.verdict.sentence


def test_a_state_learned_from_other_examples_has_none_and_says_why(place, model, learned):
    plan = prepare(settings(place), model)
    known = [*plan.development, *plan.unused]
    found = taught_by(learned, known, plan.prompts)
    assert isinstance(found, Taught) and len(found.examples) + len(found.development) == len(known)
    assert found.numbers == sum(p.tensors["state"].numel() for p in learned.parts) and found.steps == FEW
    texts = {(q.prompt, f" {q.answers[0]}") for q in known}
    assert {*found.examples, *found.development} == texts and not {*found.examples} & {*found.development}
    elsewhere = Recipe(learned.parts, learned.model_digest, made_from={"questions": ["0" * 32]})
    assert "0 of the examples" in str(taught_by(elsewhere, known, plan.prompts))
    assert "only a learned state" in str(taught_by(scaled(model, (1,), 2.0, 0), known, plan.prompts))


def drawn(model, seed=1):
    """Low-rank changes that do something."""
    examples = [Example(q.prompt, f" {q.answers[0]}") for q in facts.prompts(per_level=1, seed=4)]
    lora = learn_lora(model, examples[1:], examples[:1], rank=2, steps=1, lr=0.1)
    generator = torch.Generator().manual_seed(seed)
    factors = {name: (a, torch.randn(b.shape, generator=generator)) for name, (a, b) in lora.factors.items()}
    return factors, type(lora)(factors, lora.descent).merged(model)


def test_answers_and_price_under_changed_weights_are_those_of_the_changed_model(model):
    factors, merged = drawn(model)
    condition = Condition("control_lora_0", "control_lora", None, 0, weights=to_plain(factors))
    plan = prepare(
        EvalConfig.model_validate({"per_level": 2, "steering": {"variant": "none"}, "price_limit": 1}), model
    )
    items = plan.items(plan.test, "test", [condition])
    changed = AnswerWorker(model, [condition], 4, ["\n"]).run({"items": items}).to_pylist()
    plain = AnswerWorker(merged, [PLAIN], 4, ["\n"])
    expected = plain.run({"items": [item | {"condition": "unsteered"} for item in items]}).to_pylist()
    assert [r["prediction"] for r in changed] == [r["prediction"] for r in expected]
    assert [r["answer_logprob"] for r in changed] == pytest.approx([r["answer_logprob"] for r in expected], abs=1e-4)
    text = {"text_id": "t", "document": "t", "text_source": "made", "model": "m", "variant": "v", "n_bytes": 9}
    texts = [text | {"tokens": [5, 6, 7, 8, 9], "condition": name} for name in ("unsteered", "control_lora_0")]
    before, after = PriceWorker(model, [PLAIN, condition]).run({"items": texts}).to_pylist()
    with torch.no_grad():
        logits = merged(torch.tensor([[5, 6, 7, 8, 9]]))[0, :-1].double().log_softmax(-1)
    nll = -float(logits.gather(-1, torch.tensor([[6], [7], [8], [9]])).mean())
    assert after["nll"] == pytest.approx(nll, abs=1e-4) and abs(after["nll"] - before["nll"]) > 1e-3
    assert after["kl"] > 0 and after["edit_norm"] is None and before["kl"] == 0


def test_changed_weights_are_those_of_a_merged_model_and_go_back(model):
    factors, merged = drawn(model)
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = model(tokens)
    restored = from_plain(json.loads(json.dumps(to_plain(factors))))
    expected = merged(tokens)
    with changed_weights(model, restored):
        assert torch.allclose(model(tokens), expected, atol=1e-5)
        assert not torch.allclose(model(tokens), plain, atol=1e-2)
    assert torch.equal(model(tokens), plain)
    with pytest.raises(UsageError), changed_weights(model, restored):
        raise UsageError("inside")
    assert torch.equal(model(tokens), plain), "after an error too"


def test_a_condition_with_weights_is_its_own_and_survives_json(model):
    condition = Condition("control_lora_0", "control_lora", None, 0, weights={"w": []})
    assert not condition.is_plain and Condition.from_dict(json.loads(json.dumps(condition.to_dict()))) == condition
    assert "weights" not in Condition("steered", "steered").to_dict(), "others are named as they were"


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "moe_mamba"])
def test_the_state_that_a_prefix_leaves_is_the_prefix(arch):
    model = nano(arch, vocab_size=1024, dtype=torch.float32)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER), local_files_only=True)
    examples = [Example("a b", " c"), Example("c d e", " f")]
    prefix = learn_prefix(model, examples, examples, length=3, steps=2)
    recipe, rows = state_of_prefix(model, prefix.vectors), rows_of(model, examples)
    with torch.no_grad():
        expected = prefix.forward(model)(rows.tokens, rows.mask)
        plain = model(rows.tokens, rows.mask)
        with model.edit(*recipe.edits(model)):
            found = model(rows.tokens, rows.mask)
    assert torch.allclose(found[rows.mask], expected[rows.mask], atol=1e-5)
    assert not torch.allclose(plain[rows.mask], expected[rows.mask], atol=1e-4)


def test_a_model_that_keeps_more_than_a_state_has_no_prefix():
    model = nano("striped_hyena", vocab_size=1024, dtype=torch.float32)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER), local_files_only=True)
    pairs = tuple((f"a {name}", f" {name}") for name in "bcdefg")
    worker = BaselineWorker(model, Taught(pairs[2:], pairs[:2], 3 * model.config.d_model, 2, 0))
    (row,) = worker.run({"items": [{"id": "soft_prefix"}]}).to_pylist()
    assert row["status"] == "refused" and "more than a state that a text can begin with" in row["reason"]
    assert row["recipe"] is None
