"""An evaluation that asks its test questions in other forms too."""

from __future__ import annotations

import pytest
from mplat.core.errors import UsageError
from mplat.datasets.prompting.asked_before import question_digests
from mplat.eval.eval_config import EvalConfig
from mplat.eval.in_words import result_words
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.models import load
from mplat.runtime import open_session, read_table
from mplat.steering import Part, Recipe
from planted_models import CHANNELS, LAYER, talking


def test_the_gain_is_asked_for_in_other_forms_of_the_questions(tmp_path):
    model = talking()
    model.save(tmp_path / "model")
    model = load(tmp_path / "model")
    part = Part("scale_channels", "mixer_out", (LAYER,), 3.0, channels=CHANNELS)
    recipe = Recipe((part,), model.digest).save(tmp_path / "recipe.json")
    config = EvalConfig.model_validate({
        "model": str(tmp_path / "model"), "per_level": 3, "max_new_tokens": 2, "development_share": 0.3, "controls": [],
        "resamples": 200, "price_limit": 2, "robust": True, "steering": {"recipe": recipe},
    })  # fmt: skip
    plan = prepare(config, model)
    with open_session("none") as session:
        result = evaluate(plan, out=tmp_path / "run", session=session)
    forms = {form.kind: form for form in result.summary.robust}
    assert set(forms) == {"in other words", "with longer contexts", "of another seed"}
    rows = [row for row in read_table(result.out / "items.parquet").to_pylist() if row["split"].startswith("robust_")]
    assert {row["condition"] for row in rows} == {"unsteered", "steered"} and all(row["status"] == "ok" for row in rows)
    test = {q.id for q in plan.test}
    assert {row["derived_from"] for row in rows} - {""} == test, "no development question, and every test question"
    assert {kind: form.change.n for kind, form in forms.items()} == {
        "in other words": len(test), "with longer contexts": len(test), "of another seed": 0,
    }  # fmt: skip
    prompts = {row["prompt_digest"] for row in read_table(result.out / "prompts.parquet").to_pylist()}
    assert {row["prompt_digest"] for row in rows} <= prompts
    lines = [line for line in result_words(result) if str(line).startswith("questions ")]
    assert len(lines) == 3 and all("it does not hold" in line or "it holds" in line for line in lines)


def test_what_stands_before_the_questions_stands_before_their_other_forms_too(tmp_path):
    header = tmp_path / "header.txt"
    header.write_text("Answer with a name.\n")
    talking().save(tmp_path / "model")
    model = load(tmp_path / "model")
    recipe = Recipe((Part("scale_channels", "mixer_out", (LAYER,), 3.0, channels=CHANNELS),), model.digest)
    values = {"per_level": 2, "robust": True, "header": header, "price_limit": 2}
    stored = {"steering": {"recipe": recipe.save(tmp_path / "recipe.json")}}
    plan = prepare(EvalConfig.model_validate({**values, **stored}), model)
    asked = [q for other in plan.alternatives for q in other.questions]
    assert len(plan.alternatives) == 3
    assert all(plan.prompts[q.id].text.startswith(header.read_text()) for q in [*plan.test, *asked])
    assert header.read_text() not in plan.examples(), "it stands before the question, once"
    again = next(other for other in plan.alternatives if other.kind == "of another seed").questions
    decided = Recipe(recipe.parts, model.digest, made_from={"questions": list(question_digests(again[:1]))})
    stored = {"steering": {"recipe": decided.save(tmp_path / "decided.json")}}
    (left,) = (o for o in prepare(EvalConfig.model_validate({**values, **stored}), model).alternatives if not
               o.kind.startswith(("in", "with")))  # fmt: skip
    assert [q.id for q in left.questions] == [q.id for q in again[1:]]


def test_a_search_sees_the_prompts_that_are_judged_with_their_header_and_end(tmp_path):
    header = tmp_path / "header.txt"
    header.write_text("Answer with a name.\n")
    model = load("tiny-mamba2")
    values = {"per_level": 3, "header": header, "stop": ["."], "steering": {"sites": ["mixer_out"]}}
    plan = prepare(EvalConfig.model_validate(values), model)
    assert plan.search is not None and len(plan.search.items) == len(plan.asked_in_development) > 0
    for item in plan.search.items:
        assert list(item.prompt) == list(plan.prompts[item.id].tokens)
        assert model.tokenizer.decode(list(item.answer)).endswith(".")


def test_where_nothing_is_steered_there_is_no_gain_to_ask_for_again():
    config = EvalConfig.model_validate({"per_level": 1, "robust": True, "steering": {"variant": "none"}})
    with pytest.raises(UsageError, match="robust has no meaning where the model is not steered"):
        prepare(config, talking())
