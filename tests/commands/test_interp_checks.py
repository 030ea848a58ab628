"""`mplat interp --check`, what the command says when a step fails, and what a dry run says of costs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.core.errors import InputError
from mplat.interp import Job
from mplat.interp.engine.step import STEPS, step
from mplat.models.families.mamba.mamba import MambaMixer
from mplat.report import load as load_report
from mplat.report import render
from mplat.runtime.record import read_run

FAST = ["--per-level", "1", "--address", "none", "--set", "setup.tokens=5", "--set", "setup.prompts=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader().save(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path):
    def call(*words: object, code: int = 0) -> tuple[Any, str]:
        """Runs `mplat interp WORDS --json` with a cache of its own; its object and what it says besides."""
        arguments = ["interp", "--model", str(model), *FAST, *map(str, words), "--cache", str(tmp_path / "cache")]
        assert main([*arguments, "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return call


@pytest.mark.slow
def test_the_check_runs_alone_and_anew_and_stands_in_the_report(run, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # one that is cached would prove nothing
        found, _ = run("--check", "--out", out)
        (entry,) = found["steps"]
        assert (entry["step"], entry["cached"], found["failures"]) == ("setup", False, [])
        assert {row["status"] for row in found["checks"]} == {"ok"} and len(found["checks"]) > 9
    page = render(load_report([out]))
    assert "Parity certificate" in page and "decoding token by token gives" in page
    assert {f"setup-{part}.parquet" for part in ("checks", "sites", "versions")} < read_run(out).files.keys()
    assert "leave out --check or --steps" in run("--check", "--steps", "setup", code=2)[0]["error"]["message"]

    own = MambaMixer.forward

    def forward(self: Any, u: Any, run: Any, prefix: str, state: Any, need_state: bool) -> Any:
        y, new = own(self, u, run, prefix, state, need_state)
        return (y if state is None else 1.1 * y), new

    monkeypatch.setattr(MambaMixer, "forward", forward)
    found, said = run("--check", "--fail-over", 1, code=1)
    (row,) = [row for row in found["checks"] if row["status"] == "check_failed"]
    assert row["check"] == "decode" and row["difference"] > row["bound"]
    assert f"setup: the model fails 1 of its checks: {row['reason']}" in said
    found, said = run("--steps", "setup", "--fail-over", 1, code=1)  # nor is it better when it is read from the cache
    assert found["steps"][0]["cached"] and row["reason"] in said


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Steps `breaks` and `needs_it`, forgotten again; what is put in is raised."""
    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))
    raised: dict[str, Exception] = {"breaks": InputError("something is absent")}

    @step("breaks")
    def breaks(job: Job) -> dict[str, pa.Table]:
        """Raises."""
        if raised:
            raise raised["breaks"]
        return {"": pa.table({"row": [1]})}

    @step("needs_it", needs=("breaks",))
    def needs_it(job: Job) -> dict[str, pa.Table]:
        """Needs what raises."""
        return {"": pa.table({"row": [1]})}

    @step("compares", others=("another model",))
    def compares(job: Job) -> dict[str, pa.Table]:
        """Takes a further model."""
        return {"": pa.table({"models": [len(job.models)]})}

    return raised


def test_a_failing_step_is_told_with_the_command_that_runs_it_again(run, broken, tmp_path, capsys) -> None:
    words = ["--steps", "activations,needs_it", "--set", "seed=3", "--out", tmp_path / "my out"]
    found, said = run(*words, code=1)
    assert [entry["step"] for entry in found["steps"]] == ["activations"]
    failed, skipped = found["failures"]
    assert (failed["step"], failed["status"], failed["error"]) == (
        "breaks", "failed", {"type": "InputError", "message": "something is absent"},
    )  # fmt: skip
    assert (skipped["step"], skipped["status"], skipped["needed"]) == ("needs_it", "skipped", "breaks")
    assert "error: breaks failed: something is absent; needs_it is skipped, since breaks" in said
    assert failed["again"].startswith("mplat interp ") and "--out" not in failed["again"]
    again = shlex.split(failed["again"])[1:]
    assert again[again.index("--steps") + 1] == "breaks" and "seed=3" in again
    assert main([*again, "--json"]) == 3  # it alone: its own code
    assert "something is absent" in capsys.readouterr().err
    assert main(again) == 3
    assert "run it again with: mplat interp" in capsys.readouterr().out
    broken.clear()
    assert main([*shlex.split(skipped["again"])[1:], "--json"]) == 0
    assert [entry["step"] for entry in json.loads(capsys.readouterr().out)["steps"]] == ["breaks", "needs_it"]
    found, _ = run(*words)  # all of it is there now, and the folder is completed
    assert all(entry["cached"] for entry in found["steps"]) and read_run(tmp_path / "my out").status == "done"


def test_the_command_for_a_step_leaves_out_models_that_it_does_not_compare(run, broken, model, capsys) -> None:
    found, _ = run("--steps", "breaks,compares", "--compare", model, code=1)
    assert [entry["step"] for entry in found["steps"]] == ["compares"]
    (failed,) = found["failures"]
    assert "--compare" not in failed["again"] and main([*shlex.split(failed["again"])[1:], "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["failures"][0]["step"] == "breaks"


def test_a_bug_in_the_only_step_is_told_as_one(run, broken) -> None:
    broken["breaks"] = ZeroDivisionError("division by zero")
    found, said = run("--steps", "breaks", code=1)
    assert found["failures"][0]["error"]["message"] == "ZeroDivisionError: division by zero"
    assert "this is a bug in mplat; traceback: " in said


def test_a_dry_run_says_seconds_and_bytes_of_what_is_missing_and_their_sum(run, tmp_path, capsys, model) -> None:
    found, _ = run("--steps", "activations,attribution", "--dry-run")
    costs = {entry["step"]: entry for entry in found["steps"]}
    assert costs.keys() == {"activations", "attribution"}
    assert all(entry["seconds"] > 0 and entry["bytes"] > 0 for entry in costs.values())
    assert found["cost"]["seconds"] == pytest.approx(sum(entry["seconds"] for entry in costs.values()))
    assert "us, read forwards in a batch" in found["cost"]["how"] and not (tmp_path / "cache").exists()
    run("--steps", "attribution")
    found, _ = run("--steps", "activations,attribution", "--dry-run")
    assert [entry["step"] for entry in found["steps"] if "seconds" in entry] == ["activations"]
    words = ["interp", "--model", str(model), *FAST, "--steps", "activations", "--dry-run", "--cache", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "about" in shown and "what is missing writes about" in shown and "time: about " in shown
