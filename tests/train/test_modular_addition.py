"""Addition modulo p as a source of training: what is a row, what is held out, and what lies beside the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mplat.commands import main
from mplat.core.config import dump_config, load_config
from mplat.core.errors import InputError, UsageError
from mplat.datasets import modular_addition as task
from mplat.datasets.readers.own_prompts import read_questions
from mplat.interp.engine.questions import encode
from mplat.models import load
from mplat.models.files.training_record import each_model
from mplat.models.lending import label, loadable
from mplat.train import train
from mplat.train.milestones import milestones
from mplat.train.run_folder import RunFolder
from mplat.train.setup import prepare
from mplat.train.train_config import TrainConfig

P, FRACTION = 7, 0.5


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "seed": 3, "steps": 12, "threads": 1,
        "model": {"arch": "mamba", "size": "nano", "d_model": 16, "n_layers": 1},
        "data": {"source": "modular_addition", "modular_addition": {"p": P, "train_fraction": FRACTION}},
        "evaluation": {"every": 0}, "checkpoint": {"every": 0, "keep_latest_k": 1, "schedule": "log:2"},
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})


def source(run: TrainConfig, folder: Path) -> Any:
    return prepare(run, RunFolder(folder), dry_run=True).source


def test_every_equation_stands_on_one_side_and_the_seed_decides(tmp_path: Path) -> None:
    rows = task.equations(P)
    assert rows.shape == (49, 4) and (rows[:, 3] == (rows[:, 0] + rows[:, 1]) % P).all() and (rows[:, 2] == P).all()
    first, other = task.trained_on(P, FRACTION, 3), task.trained_on(P, FRACTION, 4)
    assert first.sum() == other.sum() == task.n_trained(P, FRACTION) == 24 and (first != other).any()
    batch = source(config(), tmp_path).batch(0)
    assert torch.equal(batch.tokens, torch.from_numpy(rows[first]))
    assert batch.weights.tolist() == [[0.0, 0.0, 1.0]] * 24 == batch.answers.float().tolist()
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_a_step_reads_all_of_them_unless_a_number_is_said(tmp_path: Path) -> None:
    run = config()
    assert (run.batch_size, run.sequence_length) == (24, 3)
    assert config(data={"source": "modular_addition"}).batch_size == 3831  # 30 % of 113 * 113
    assert torch.equal(source(run, tmp_path).batch(0).tokens, source(run, tmp_path).batch(5).tokens)
    few = source(config(batch_size=8), tmp_path)
    epoch = torch.cat([few.batch(step).tokens for step in range(3)])
    assert sorted(epoch.tolist()) == source(run, tmp_path).batch(0).tokens.tolist()
    (tmp_path / "config.yaml").write_text(dump_config(run.resolved()))
    assert load_config(TrainConfig, tmp_path / "config.yaml", []) == run.resolved()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 25}, "there are 24 equations to train on"),
        ({"sequence_length": 4}, "an equation has 3 tokens"),
        ({"data": {"source": "modular_addition", "tokenizer": "a"}}, "a tokenizer of its own"),
        (
            {"data": {"source": "modular_addition", "modular_addition": {"p": 5, "train_fraction": 0.01}}},
            "none to train",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        source(config(**changes), tmp_path)


def test_an_even_modulus_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: modular_addition, modular_addition: {p: 10}}\n")
    with pytest.raises(UsageError, match=r"run\.yaml.*must be odd"):
        load_config(TrainConfig, file, [])
    with pytest.raises(UsageError, match="must be odd"):
        task.equations(10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(config(), out)
    return out


def test_a_run_leaves_a_model_that_reads_the_questions_beside_it(run: Path) -> None:
    model = load(run / "model")
    questions = read_questions(run / "data" / "questions.jsonl")
    items = encode(model, questions, max_tokens=8).items
    rows = task.equations(P).tolist()
    assert [[*item.prompt, *item.answer] for item in items] == rows
    seen = task.trained_on(P, FRACTION, 3).tolist()
    assert [item.category == task.TRAINED for item in items] == seen == [i.kind == "trained" for i in items]
    assert [q.prompt for q in task.questions(P, FRACTION, 3)] == [q.prompt for q in questions]
    assert model.tokenizer.decode(items[10].prompt) == questions[10].prompt == "1 3 ="
    assert model.training_record.step == 12 and model.training_record.tokens == 12 * 24 * 3


def test_checkpoints_at_equal_ratios_are_kept_and_are_models(run: Path, tmp_path: Path) -> None:
    assert milestones(2, 12) == [1, 3, 10] and milestones(0, 12) == [] and milestones(4, 20)[:6] == [1, 2, 3, 6, 10, 18]
    assert each_model(f"{run}@*") == [f"{run}@{step}" for step in (1, 3, 10, 12)]
    assert each_model("tiny-mamba") == ["tiny-mamba"]
    early, last, exported = load(f"{run}@3"), load(f"{run}@12"), load(run / "model")
    assert early.training_record.step == 3 and early.digest != last.digest
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), exported.parameters(), strict=True))
    tokens = torch.from_numpy(task.equations(P)[:, :3])
    assert torch.equal(last(tokens), exported(tokens))
    assert label(early) == f"{run.name}@3" and loadable(early)["model"] == f"{run}@3"
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evaluated = {line["step"]: line["loss"] for line in logged if line["kind"] == "eval"}
    assert sorted(evaluated) == [1, 3, 10, 12] and early.training_record.held_out_loss == evaluated[3]
    trained = next(line["answer_loss"] for line in logged if line["kind"] == "train" and line["step"] == 3)
    assert early.training_record.train_loss == trained
    with pytest.raises(InputError, match=r"no checkpoint of step 5; it has 1, 3, 10, 12"):
        load(f"{run}@5")
    with pytest.raises(InputError, match="holds no checkpoints"):
        each_model(f"{tmp_path}@*")


def test_stopped_and_continued_it_is_the_same_run(run: Path, tmp_path: Path) -> None:
    train(config(steps=10, schedule={"warmup_steps": 2, "shape": "wsd", "decay_fraction": 0}), tmp_path / "half")
    longer = config(steps=12, schedule={"warmup_steps": 2, "shape": "wsd", "decay_fraction": 0})
    train(longer, tmp_path / "whole")
    train(longer, tmp_path / "rest", resume=str(tmp_path / "half"))
    weights = [load(f"{tmp_path}/{name}@12") for name in ("whole", "rest")]
    assert weights[0].digest == weights[1].digest


def test_the_shipped_configuration_takes_p_from_the_command_line(root: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", str(root / "configs" / "train" / "modular-addition.yaml"), "--out", str(tmp_path / "run")]
    small = ["--set", "data.modular_addition.p=5", "--set", "steps=12", "--set", "model.d_model=16"]
    assert main([*words, *small, "--set", "checkpoint.schedule=log:1", "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == 12 * 8 * 3 and set(result["metrics"]) == {
        "loss", "accuracy", "train_loss", "train_accuracy"}  # fmt: skip
    assert main([*words[:-1], str(tmp_path / "other"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["batch_size"] == 3831
