"""Whatever loads can be evaluated: every architecture and every adapted type, as it is, and steered where it has a
variant of its own or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapter_zoo import CASES, theirs
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import InputError, UsageError
from mplat.datasets import facts
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.models import LanguageModel, generate, load
from mplat.report import load as load_report
from mplat.runtime import open_session, read_table
from mplat.steering import variant_names
from planted_models import TOKENIZER
from recipes import scaled

KINDS = [*ARCHITECTURES, *(case for case in CASES if ":" not in case)]
_VOCABULARY = 1024  # the shipped tokenizer's


def folder_of(kind: str, folder: Path) -> Path:
    """A small random model of `kind` in a folder."""
    if kind in ARCHITECTURES:
        nano(kind, vocab_size=_VOCABULARY).float().save(folder)
    else:
        theirs(kind, vocab_size=_VOCABULARY).save_pretrained(folder)
    return folder


def settings(folder: Path, **changes) -> EvalConfig:
    values = {
        "model": str(folder), "tokenizer": str(TOKENIZER), "per_level": 1, "max_new_tokens": 2, "limit": 2,
        "price_limit": 4, "resamples": 100, "development_share": 0.5, "draws": 1,
    }  # fmt: skip
    return EvalConfig.model_validate({**values, **changes})


def run(config: EvalConfig, out: Path, model: LanguageModel):
    with open_session("none") as session:
        return evaluate(prepare(config, model), out=out, session=session)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_answers_every_question_as_it_does_alone(kind, tmp_path):
    folder = folder_of(kind, tmp_path / "model")
    model = load(folder, tokenizer=str(TOKENIZER))
    result = run(settings(folder, steering={"variant": "none"}), tmp_path / "run", model)
    rows = {row["question_id"]: row for row in read_table(tmp_path / "run" / "items.parquet").to_pylist()}
    assert result.recipe is None and len(rows) == 2 == result.summary.test_rows
    assert {(row["condition"], row["status"], row["variant"]) for row in rows.values()} == {("unsteered", "ok", "none")}
    asked = [q for q in facts.prompts(per_level=1, seed=0, split="eval") if q.id in rows]
    alone = generate(model, [q.prompt or "" for q in asked], max_new_tokens=2, stop=["\n"])
    assert [rows[q.id]["prediction"] for q in asked] == [a.text.strip() for a in alone]


@pytest.mark.parametrize("kind", ["falcon_mamba", "jamba", "gpt2"])
def test_models_without_a_variant_are_steered_at_what_their_mixers_add(kind, tmp_path):
    folder = folder_of(kind, tmp_path / "model")
    model = load(folder, tokenizer=str(TOKENIZER))
    layer = model.n_layers - 1
    recipe = scaled(model, (0, 1), 2.0, layer).save(tmp_path / "recipe.json")
    config = settings(folder, limit=6, steering={"recipe": recipe}, controls=["random"])
    result = run(config, tmp_path / "run", model)
    own = model.config.arch in variant_names()
    plan = prepare(config, model)
    assert plan.variant.name == (model.config.arch if own else "general")
    assert ("scale_channels", "mixer_out") in plan.variant.places
    assert {c for c in result.summary.overall.em.conditions} == {"unsteered", "steered", "control_random"}


def test_without_steering_every_question_judges_and_the_sentence_says_how_many_are_right(tmp_path):
    model = load("tiny-mamba2")
    result = run(settings(Path("tiny-mamba2"), tokenizer=None, per_level=3, limit=None, max_new_tokens=8,
                          steering={"variant": "none"}), tmp_path / "run", model)  # fmt: skip
    rows = read_table(tmp_path / "run" / "items.parquet").to_pylist()
    right = sum(row["em"] for row in rows)
    assert len(rows) == 18 and result.summary.overall.em.differences == {}
    assert result.summary.verdict.sentence.startswith(f"Not steered: exact match {right / 18:.3f} (95 % interval ")
    assert result.summary.verdict.sentence.endswith(" on 18 questions.")
    assert not (tmp_path / "run" / "recipe.json").exists() and not (tmp_path / "run" / "search.parquet").exists()
    page = load_report([tmp_path / "run"])
    assert page.evaluations[0].missing == () and [c.role for c in page.evaluations[0].conditions] == ["unsteered"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"steering": {"variant": "none", "sites": ["mixer_out"]}}, "steering.sites"),
     ({"steering": {"variant": "none", "recipe": "r.json"}}, "steering.recipe"),
     ({"steering": {"variant": "none"}, "controls": ["random"]}, "controls")],
)  # fmt: skip
def test_what_only_steering_needs_is_refused_without_it(changes, named):
    with pytest.raises(UsageError, match=f"^{named} has no meaning where the model is not steered; leave it out"):
        prepare(settings(Path("tiny-mamba2"), tokenizer=None, **changes), load("tiny-mamba2"))


@pytest.mark.parametrize(
    ("name", "whose"), [("none", "any model"), ("general", "any model"), ("black_mamba", "black_mamba models")]
)
def test_a_variant_without_a_model_of_its_own_asks_which(name, whose):
    with pytest.raises(UsageError, match=f"--steering {name} is for {whose} .* say which with --model"):
        prepare(settings(Path("x"), model=None, steering={"variant": name}))


def test_questions_that_cannot_be_asked_are_named():
    config = settings(Path("tiny-mamba2"), tokenizer=None, steering={"variant": "none"}, max_prompt_tokens=8)
    with pytest.raises(InputError, match="none of the 2 questions can be asked and scored; the first, '.*tokens"):
        prepare(config, load("tiny-mamba2"))


def test_prompts_of_ones_own_are_asked_as_they_stand_and_are_counted_beside_their_groups(tmp_path):
    model = load("tiny-mamba")
    made = facts.prompts(per_level=1, seed=3)
    records = [{"prompt": q.prompt, "answers": list(q.answers), "id": q.id, "group": "a" if i < 2 else "b"}
               for i, q in enumerate(made[:4])]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = settings(Path("tiny-mamba"), tokenizer=None, questions=path, limit=None, steering={"variant": "none"})
    result = run(config, tmp_path / "run", model)
    rows = {row["question_id"]: row for row in read_table(tmp_path / "run" / "items.parquet").to_pylist()}
    alone = generate(model, [q.prompt or "" for q in made[:4]], max_new_tokens=2, stop=["\n"])
    assert [rows[q.id]["prediction"] for q in made[:4]] == [a.text.strip() for a in alone]
    assert result.summary.overall.n == 4 and {row["group"] for row in rows.values()} == {"a", "b"}
    assert result.summary.method["groups"] == 2
