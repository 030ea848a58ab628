"""A folder of results holds one run of one command: no other run is written over it unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.core.whole_files import sha256_of
from mplat.runtime.record import list_runs, read_run
from planted_models import talking

FAST_INTERP = ["--per-level", "1", "--address", "none", "--steps"]
FAST_EVAL = [
    "--layers", "1", "--set", "steering.sites=[mixer_out]", "--budget", "700000", "--controls", "random",
    "--draws", "1", "--set", "price_limit=2",
]  # fmt: skip
FAST_TRAIN = [
    "--arch", "mamba2", "--size", "nano", "--set", "batch_size=2", "--set", "sequence_length=32", "--set", "steps=2",
    "--set", "evaluation.prompts_per_level=1", "--set", "schedule.warmup_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    reader().save(folder / "nano")
    talking("mamba").save(folder / "talking")
    return folder


@pytest.fixture
def commands(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Each command that writes a folder of results, ready to run with `--out`."""
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    return {
        "train": ["train", *FAST_TRAIN],
        "interp": ["interp", "--model", str(models / "nano"), *FAST_INTERP, "attribution"],
        "eval": ["eval", "--model", str(models / "talking"), "--address", "none", "--per-level", "3", *FAST_EVAL],
        "quickstart": ["quickstart"],
    }


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("more", [[], ["--fresh"], ["--dry-run"], ["--fresh", "--dry-run"]], ids=" ".join)
@pytest.mark.parametrize("command", ["train", "interp", "eval", "quickstart"])
def test_a_run_of_another_command_is_refused_and_stays_as_it_is(commands, tmp_path, capsys, command, more) -> None:
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    for owner in commands.keys() - {command}:
        (out / "run.json").write_text(json.dumps({"command": owner, "config": {}}))
        (out / "summary.json").write_text("{}")
        before = content(out)
        assert main([*commands[command], *more, "--out", str(out)]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"error: --out {out} holds a run of `mplat {owner}`; choose another --out"
        assert content(out) == before


def test_interp_refuses_other_settings_and_fresh_leaves_nothing_of_the_old_run(commands, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main([*commands["interp"][:-1], "activations", "--out", str(out)]) == 0
    before = content(out)
    (out / "notes.txt").write_text("mine")
    assert main([*commands["interp"], "--out", str(out)]) == 2
    assert f"--out {out} holds a run of `mplat interp` with another configuration (differs in steps); " in (
        capsys.readouterr().err
    )
    assert content(out) == before | {"notes.txt": b"mine"}
    assert main([*commands["interp"], "--out", str(out), "--fresh"]) == 0
    assert sorted(content(out)) == ["attribution.parquet", "notes.txt", "prompts.parquet", "run.json"]


def test_train_into_a_run_without_weights_does_not_offer_them(commands, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"command": "train", "config": {"seed": 7}}))
    assert main([*commands["train"], "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "differs in " in said and "--fresh" in said and "--resume" not in said


def test_train_with_fresh_in_a_folder_that_is_no_run_deletes_nothing(commands, models, tmp_path) -> None:
    for name in ("model", "checkpoints"):
        shutil.copytree(models / "nano", tmp_path / "out" / name)
    before = content(tmp_path / "out" / "checkpoints")
    assert main([*commands["train"], "--out", str(tmp_path / "out"), "--fresh", "--quiet"]) == 0
    assert before.items() <= content(tmp_path / "out" / "checkpoints").items()


def test_quickstart_refuses_other_settings(commands, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"command": "quickstart", "config": {"seed": 7}}))
    for more in ([], ["--dry-run"]):
        assert main([*commands["quickstart"], "--out", str(out), *more]) == 2
        assert "holds a run of `mplat quickstart` with another configuration (differs in seed)" in (
            capsys.readouterr().err
        )
    assert main([*commands["quickstart"], "--out", str(out), "--dry-run", "--fresh"]) == 0


@pytest.mark.slow
def test_every_command_leaves_the_same_record_of_a_finished_run(commands, models, tmp_path, capsys) -> None:
    runs, texts, model = tmp_path / "runs", tmp_path / "texts.txt", str(models / "talking")
    texts.write_text("Bekdok lives in Kanbak.")
    quick = {"plant": "null", "models": f"[{model}]", "per_level": 3, "classify.per_level": 2, "steering.draws": 1,
             "steering.development_limit": 3, "steering.sites": "[mixer_out]", "steering.price_limit": 4}  # fmt: skip
    quick = [word for key, value in quick.items() for word in ("--set", f"{key}={value}")]
    trace = ["--model", str(models / "nano"), "--prompt", "Rome is in the south", "--subject", "Rome", "--samples", "1"]
    for words in (
        commands["train"],
        ["quickstart", *quick],  # runs of classify, interp and eval are below its own
        ["perplexity", str(texts), "--model", model, "--address", "none"],
        ["trace", *trace, "--sites", "resid_post", "--address", "none", "--all"],
    ):
        assert main([*words, "--out", str(runs / words[0])]) == 0, capsys.readouterr().err
    found = {(record := read_run(path)).command: (path.parent, record) for path in list_runs(runs)}
    assert found.keys() == {"train", "quickstart", "classify", "interp", "eval", "perplexity", "trace"}
    for command, (folder, record) in found.items():
        assert record.status == "done" and record.config and record.counts and "seed" in record.seeds, command
        assert len(record.code) == 64 and {"mplat", "torch", "python"} <= record.versions.keys(), command
        assert record.files, command
        for name, digest in record.files.items():
            assert sha256_of((folder / name).read_bytes()) == digest, (command, name)
        if command != "quickstart":  # it makes its own
            assert record.data is not None and len(record.data.digest) == 64, command
        if command not in ("quickstart", "classify"):
            assert record.model is not None and len(record.model.digest or "") == 64 and record.model.parameters > 0
            assert record.backend is not None and record.backend.kernels and record.backend.threads == 1, command
