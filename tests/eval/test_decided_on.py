"""What decides does not judge: default questions of training, analyses and evaluation differ, and where the same ones
are given all the same, the evaluation is refused with their ids."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.datasets import facts
from mplat.datasets.prompting.asked_before import CHOICE_FILE, question_digest, question_digests, write_choice
from mplat.datasets.records import Paragraph, Question, to_table
from mplat.eval.asking import read_questions
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.interp import Cache, bottleneck_finder, config_model
from mplat.interp.engine.inputs import Given, read_missing
from mplat.runtime import open_session
from mplat.steering import Part, Recipe
from mplat.train.export import export
from mplat.train.sources.facts import FactsSource
from mplat.train.train_config import TrainConfig
from planted_models import TOKENIZER, talking

FEW = {
    "max_new_tokens": 1, "price_limit": 4, "resamples": 100, "draws": 1, "per_level": 4,
    "steering": {"sites": ["mixer_out"], "layers": [1], "budget": 400_000}, "controls": ["random"],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from mplat.models import load

    return load(talking("mamba").save(tmp_path_factory.mktemp("decided") / "model"))


def settings(**changes) -> EvalConfig:
    return EvalConfig.model_validate({**FEW, **changes})


def run(plan, out):
    with open_session("none") as session:
        return evaluate(plan, out=out, session=session)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_equal_seeds_draw_other_questions_for_each_purpose(seed, tmp_path):
    evaluated = read_questions(EvalConfig(seed=seed))
    source = FactsSource(TrainConfig.model_validate({"evaluation": {"seed": seed}}), tmp_path, dry_run=True)
    config = config_model()(seed=seed, steps=("activations",))
    analysed = read_missing({"questions"}, config, Given()).questions
    of_eval, of_train = question_digests(evaluated), question_digests(source.questions())
    assert len(of_eval) == 600 and len(of_train) == 300 and len(analysed) == 120
    assert not set(of_eval) & set(of_train) and not set(of_eval) & set(analysed) and not set(of_train) & set(analysed)
    ids = [{q.id for q in questions} for questions in (evaluated, source.questions())]
    assert not ids[0] & ids[1]


def test_a_digest_is_that_of_what_is_asked_and_not_of_the_id():
    (first, second, *_) = facts.prompts(per_level=1)
    assert question_digest(dataclasses.replace(first, id="x", answers=())) == question_digest(first)
    assert question_digest(second) != question_digest(first)


@pytest.mark.slow
def test_a_recipe_is_not_judged_by_the_questions_it_was_found_on(model, tmp_path):
    plan = prepare(settings(), model)
    found = run(plan, tmp_path / "run").recipe
    stored = Recipe.load(tmp_path / "run" / "recipe.json", model)
    assert stored == found and stored.decided_on == question_digests(plan.development)
    path = tmp_path / "run" / "recipe.json"
    prepare(settings(steering={"recipe": path}), model)  # the same split: disjoint
    other = settings(steering={"recipe": path}, seed=0, development_share=0.01)
    with pytest.raises(InputError) as caught:
        prepare(other, model)
    shared = sorted(q.id for q in plan.development)
    assert f"was made on questions that are to judge it: {', '.join(shared[:5])}" in str(caught.value)
    unknown = dataclasses.replace(stored, made_from={}).save(tmp_path / "older.json")
    assert Recipe.load(unknown).decided_on is None and "questions" not in json.loads(unknown.read_text())["made_from"]
    prepare(settings(steering={"recipe": unknown}, development_share=0.01), model)


def test_channels_are_not_chosen_by_test_questions(model, tmp_path):
    plan = prepare(settings(), model)
    assert plan.search is not None
    other = dataclasses.replace(plan.search, questions=question_digests(plan.test[3:]))
    with pytest.raises(InputError, match="the search was made on .*" + re.escape(plan.test[3].id)):
        run(dataclasses.replace(plan, search=other), tmp_path / "run")
    own = bottleneck_finder(model, plan.asked_in_development, cache_dir=tmp_path / "cache", seed=0)
    assert own.decided_on == question_digests(plan.asked_in_development)
    own("mixer_out", 1, 2)
    (entry, *_) = Cache(tmp_path / "cache").entries()
    assert entry.questions == own.decided_on, "the cached table says on which questions it was computed"


def test_weights_that_questions_chose_are_not_judged_by_them(tmp_path):
    from mplat.models import load

    asked = facts.prompts(per_level=4, seed=0)
    export(talking("mamba"), "float32", TOKENIZER, tmp_path / "model", chosen_by=asked[:7])
    chosen = load(tmp_path / "model")
    assert (tmp_path / "model" / CHOICE_FILE).is_file()
    config = settings(steering={"variant": "none"}, controls=[])
    with pytest.raises(InputError, match=f"the choice of the weights of .*{asked[0].id}, .*7 in all.*export.weights"):
        prepare(config, chosen)
    prepare(settings(steering={"variant": "none"}, controls=[], seed=1), chosen)
    write_choice(tmp_path / "model", facts.prompts(per_level=4, seed=0, stream="train-evaluation"))
    prepare(config, chosen)


@pytest.mark.slow
def test_a_file_of_questions_that_were_asked_before_is_found_by_what_it_asks(model, tmp_path):
    asked = [dataclasses.replace(q, id=f"other-{i}") for i, q in enumerate(facts.prompts(per_level=4, seed=0))]
    pq.write_table(to_table(asked), tmp_path / "q.parquet")
    plan = prepare(settings(), model)
    run(plan, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.json"
    with pytest.raises(InputError, match="questions that are to judge it: other-"):
        prepare(settings(questions=Path(tmp_path / "q.parquet"), steering={"recipe": recipe}, seed=1), model)
    # with the seed of the search they lie where the same questions lay: a side is that of the entity, not of the id
    prepare(settings(questions=Path(tmp_path / "q.parquet"), steering={"recipe": recipe}), model)


def test_a_recipe_of_vectors_knows_questions_by_the_texts_that_were_read(model, tmp_path):
    """The answers of an evaluation name the texts of prompts: of a data set's question, not its words and context."""
    asked = [
        Question(f"s{i}", "squad", "dev", f"Where is thing {i}?", (Paragraph("", (f"Thing {i} is in place {i}.",)),),
                 (f"place {i}",), metric="squad_v1")
        for i in range(24)
    ]  # fmt: skip
    pq.write_table(to_table(asked), tmp_path / "q.parquet")
    part = Part("scale_channels", "mixer_out", (1,), 2.0, channels=(0,))
    path = Recipe((part,), model.digest, made_from={"questions": []}).save(tmp_path / "recipe.json")
    plan = prepare(settings(questions=tmp_path / "q.parquet", steering={"recipe": path}), model)
    read = plan.prompts[plan.test[2].id].text
    assert read and plan.test[2].prompt is None
    said = question_digest(Question("", "own", "", "", prompt=read))  # as `vectors.of_answers` has it
    path = Recipe((part,), model.digest, made_from={"questions": [said]}).save(tmp_path / "recipe.json")
    with pytest.raises(InputError, match=f"questions that are to judge it: {plan.test[2].id};"):
        prepare(settings(questions=tmp_path / "q.parquet", steering={"recipe": path}), model)
