"""`mplat interp --sweep` and `--checkpoints`: one table over all points, each computed once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from interp_jobs import TOKENIZER, reader
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.interp import Job
from mplat.interp.engine.step import STEPS, step
from mplat.interp.engine.view import Column, LinePart, MapPart, TablePart, View
from mplat.models import LanguageModel
from mplat.models.files.training_record import checkpoints_of
from mplat.models.parts.recall import inverse_softplus
from mplat.report import load
from mplat.report.sections.over_points import Swept, over_points
from mplat.runtime.record import read_run
from mplat.train.checkpoint import save

STEP, RATE = 0.02, 0.2
FAST = ["--per-level", "1", "--address", "none", "--layers", "0", "--steps", "eigenvalues"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first block forgets at a known rate, whatever it reads."""
    made = reader()
    mixer: Any = made.blocks[0].mixer
    with torch.no_grad():
        mixer.A_log.copy_((RATE * torch.arange(1, mixer.A_log.numel() + 1).view(mixer.A_log.shape)).log())
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias.fill_(inverse_softplus(STEP))
    return made.save(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1, 10 and 100, and its tokenizer beside the trained model."""
    run = tmp_path_factory.mktemp("runs") / "x"
    for number in (1, 10, 100):
        made = reader(seed=number)
        save(run / "checkpoints", made, torch.optim.SGD(made.parameters()), {"step": number, "tokens": 8 * number})
    shutil.copytree(TOKENIZER, run / "model")
    return run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def call(*words: object, code: int = 0) -> Any:
        """`mplat interp` with a cache of its own; its object."""
        assert main(["interp", *map(str, words), *FAST, "--cache", str(tmp_path / "cache"), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each forward pass."""
    seen: list[int] = []
    forward = LanguageModel.forward

    def counted(self, tokens, *args, **kwargs):
        seen.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "forward", counted)
    return seen


def shown(out: Path) -> list[str]:
    """The titles of what a report shows of the one step of a run."""
    (step,) = load([out]).interpretations[0].steps
    return [content.title for content in step.shown]


@pytest.mark.slow
def test_a_length_sweep_finds_what_was_planted_and_computes_it_once(run, model, tmp_path, passes, capsys) -> None:
    out = tmp_path / "out"
    words = ["--model", model, "--sweep", "length=160,260"]
    first = run(*words, "--out", out)
    assert [(p["point"], p["steps"][0]["cached"]) for p in first["points"]] == [
        ({"length": 160}, False), ({"length": 260}, False),
    ]  # fmt: skip
    table = pq.read_table(out / "eigenvalues-spectrum.parquet")
    assert (
        table.column_names[0] == "length"
        and b"tokens that every prompt gets" in table.schema.field(0).metadata[b"meaning"]
    )
    for length in (160, 260):
        rows = [row for row in table.to_pylist() if row["length"] == length]
        constants = 1 / (STEP * RATE * np.arange(1, len(rows) + 1))  # 250 tokens, 125, ...
        np.testing.assert_allclose([row["time_constant_tokens"] for row in rows], constants, rtol=1e-5)
        assert [row["extrapolated"] for row in rows] == (constants > length + 5).tolist()
    prompts = pq.read_table(out / "prompts.parquet").to_pylist()
    assert {(row["length"], row["n_tokens"]) for row in prompts} == {(160, 160), (260, 260)}
    record = read_run(out)
    assert (
        record.status == "done"
        and record.data is not None
        and record.plan["points"] == [{"length": 160}, {"length": 260}]
    )
    assert record.details["swept"][0]["values"] == [160, 260] and record.details["steps"]["eigenvalues"]["parts"]

    passes.clear()
    files = {path: path.read_bytes() for path in out.iterdir() if path.suffix == ".parquet"}
    again = run(*words, "--out", out)
    assert all(step["cached"] for point in again["points"] for step in point["steps"]) and not passes
    assert {path: path.read_bytes() for path in out.iterdir() if path.suffix == ".parquet"} == files
    further = run("--model", model, "--sweep", "length=160,200")  # a new length computes itself alone
    assert [p["steps"][0]["cached"] for p in further["points"]] == [True, False]
    alone = run("--model", model, "--set", "length=260")  # a point is an ordinary run
    assert alone["steps"][0]["cached"] and alone["steps"][0]["key"] == first["points"][1]["steps"][0]["key"]

    titles = shown(out)
    assert "share extrapolated over length" in titles and "Time constants of the layers, length 160" in titles
    other = run("--model", model, "--sweep", "length=160,200", "--out", out, code=2)
    assert "with another configuration (differs in the questions)" in other["error"]["message"]
    capsys.readouterr()


@pytest.mark.slow
def test_checkpoints_are_a_table_over_training(run, trained, tmp_path, passes) -> None:
    out = tmp_path / "out"
    first = run("--checkpoints", trained, "--out", out)
    assert [p["point"] for p in first["points"]] == [{"train_step": 1}, {"train_step": 10}, {"train_step": 100}]
    table = pq.read_table(out / "eigenvalues-layers.parquet").to_pylist()
    assert [row["train_step"] for row in table] == [1, 10, 100] and len(
        {r["time_constant_tokens_q50"] for r in table}
    ) == 3
    passes.clear()
    part = run("--checkpoints", f"{trained}@10..")
    assert [(p["point"]["train_step"], p["steps"][0]["cached"]) for p in part["points"]] == [(10, True), (100, True)]
    alone = run("--model", f"{trained}@10", "--tokenizer", trained / "model")
    assert alone["steps"][0]["cached"] and not passes
    both = run("--checkpoints", f"{trained}@*:2", "--sweep", "length=160,200", "--dry-run")
    assert [tuple(p["point"].values()) for p in both["points"]] == [(1, 160), (1, 200), (100, 160), (100, 200)]
    assert all(p["steps"][0]["seconds"] > 0 for p in both["points"]) and both["cost"]["seconds"] > 0
    assert "Time constants of the layers over train_step" in shown(out)


def test_a_damaged_checkpoint_is_named_before_anything_is_computed(run, trained, tmp_path, passes) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = copy / "checkpoints" / "step-00000010" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = run("--checkpoints", copy, code=3)["error"]["message"]
    assert "step-00000010 cannot be used: model.safetensors differs from its manifest" in said and not passes
    weights.unlink()
    assert "model.safetensors is missing" in run("--checkpoints", copy, code=3)["error"]["message"]
    (weights.parent / "config.json").unlink()  # it is still a checkpoint, and not passed over
    assert "is missing" in run("--checkpoints", copy, code=3)["error"]["message"]
    assert len(run("--checkpoints", f"{copy}@100..", "--dry-run")["points"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--sweep", "length=0"], 2, "--sweep length 0: input should be greater than or equal to 1"),
        (["--sweep", "length=abc"], 2, "--sweep length abc: input should be a valid integer"),
        (["--sweep", "lenght=12"], 2, "did you mean 'length'?"),
        (["--sweep", "eigenvalues.thta=1"], 2, "unknown key 'thta'"),
        (["--sweep", "length"], 2, "write KEY=A,B"),
        (["--sweep", "length=160,160"], 2, "more than once"),
        (["--sweep", "length=160,abc"], 2, "not several kinds"),
        (["--sweep", "model=a,b"], 2, "name checkpoints of a training with --checkpoints"),
        (["--sweep", "length=160", "--sweep", "length=200"], 2, "length is swept twice"),
        (["--sweep", "length=160", "--set", "length=200"], 2, "--set gives it too"),
        (["--sweep", "per_level=1,2"], 2, "--per-level gives it too"),
        (["--sweep", "memory_decay.theta=.5,.7"], 2, "no analysis of this run depends on it"),
        (["--sweep", "length=160", "--check"], 2, "leave out --check"),
        (["--sweep", "length=10"], 3, "length=10: none of the 6 questions can be used"),
        (["--checkpoints", "RUN"], 2, "leave out --model"),
    ],
)
def test_wrong_points_are_refused_in_one_sentence(run, model, tmp_path, words, code, message) -> None:
    said = run("--model", model, *words, code=code)["error"]["message"]
    assert message in said and "\n" not in said and not (tmp_path / "cache").exists()


def test_a_run_without_checkpoints_is_refused(run, model) -> None:
    assert "holds no checkpoints" in run("--checkpoints", model, code=3)["error"]["message"]


def test_what_fails_at_one_point_is_told_and_the_others_are_kept(model, tmp_path, capsys, flaky: str) -> None:
    out = tmp_path / "out"
    words = ["interp", "--model", str(model), "--per-level", "1", "--address", "none", "--steps", flaky]
    words += ["--sweep", "length=160,200", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "length=200: flaky failed: the prompts are too long" in said.out and "--set length=200" in said.out
    record = read_run(out)
    assert record.status == "unfinished" and [f["point"] for f in record.details["failures"]] == ["length=200"]
    assert pq.read_table(out / "flaky.parquet").to_pylist() == [{"swept_length": 160, "length": 160.0}]
    (said,) = load([out]).interpretations[0].missing
    assert said.startswith("flaky at length=200 failed: the prompts are too long; run it again with `mplat interp")


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> str:
    """A step that fails on long prompts, with a column of its own that is called as what is swept."""

    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))  # the step is forgotten again

    @step("flaky")
    def flaky(job: Job) -> dict[str, pa.Table]:
        """The length of the longest prompt."""
        if (longest := max(len(item.prompt) for item in job.items)) > 180:
            raise InputError("the prompts are too long")
        return {"": pa.table({"length": [float(longest)]})}

    return "flaky"


def test_checkpoints_are_selected_by_their_steps(tmp_path: Path) -> None:
    for number in (1, 2, 3, 6, 10):
        (tmp_path / "x" / "checkpoints" / f"step-{number:08d}").mkdir(parents=True)
    run = str(tmp_path / "x")

    def steps(selection: str) -> list[int]:
        found = checkpoints_of(run + selection)
        assert [name for _, name in found] == [f"{run}@{number}" for number, _ in found]
        return [number for number, _ in found]

    assert steps("") == steps("@*") == steps("@..") == [1, 2, 3, 6, 10]
    assert (steps("@2..6"), steps("@3.."), steps("@..2"), steps("@6")) == ([2, 3, 6], [3, 6, 10], [1, 2], [6])
    assert (steps("@*:2"), steps("@2..10:3")) == ([1, 3, 10], [2, 10])
    for wrong in ("@a", "@1-3", "@*:0", "@1..2:", "@"):
        with pytest.raises(UsageError, match="name a run"):
            steps(wrong)
    with pytest.raises(InputError, match="the run has 1, 2, 3, 6, 10"):
        steps("@4..5")


def test_lines_over_points_are_of_numbers_that_stand_once_at_each_place() -> None:
    rows = [
        {"length": length, "layer": layer, "unit": unit, "a": float(length + layer), "b": float(unit)}
        for length in (64, 512)
        for layer in range(20)
        for unit in range(2)
    ]
    table = pa.Table.from_pylist([row for row in rows if row["unit"] == 0])
    view = View(
        "A view",
        "",
        (
            LinePart(x="layer", y="a", title="A by layer"),
            TablePart(part="twice", columns=(Column("layer"), Column("b")), title="All"),
            MapPart(rows="layer", columns="unit", value="b", title="B"),
        ),
    )
    twice = pa.Table.from_pylist(rows)
    made = over_points(view, [Swept("length", (64, 512))], {"": table, "twice": twice})
    over = [part for part in made.parts if isinstance(part, LinePart) and part.x == "length"]
    assert [(part.y, part.group, part.title, part.log_x) for part in over] == [
        ("a", "layer", "A by layer over length", True), ("b", "layer", "b over length", True),
    ]  # fmt: skip
    assert over[0].only["layer"] == (0, 3, 5, 8, 11, 14, 16, 19)
    assert [part.each for part in made.parts[2:]] == [("length",), (), ("length",)]
    shown = made.parts[3]
    assert isinstance(shown, TablePart) and [column.name for column in shown.columns] == ["length", "layer", "b"]
