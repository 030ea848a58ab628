"""`mplat compare` end to end, on nano models in folders: a column for each, tables, a page, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.datasets import facts
from mplat.interp.engine.questions import encode
from mplat.models import load
from mplat.runtime.record import read_run

QUICK = [
    "--per-level", "1", "--address", "none", "--limit", "3", "--set", "model_comparison.samples=1",
    "--set", "model_comparison.counted=all", "--set", "model_comparison.resamples=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [reader(arch, seed=seed).save(folder / arch) for seed, arch in enumerate(("mamba", "stable_mamba_attached"))]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def call(*words: object, code: int = 0) -> tuple[Any, str]:
        """Runs `mplat compare WORDS --json` with a cache of its own; its object and what it says besides."""
        assert main(["compare", *map(str, words), "--cache", str(tmp_path / "cache"), "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return call


@pytest.mark.slow
def test_models_stand_side_by_side_with_their_tables_and_a_page(run, models, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    found, said = run(*models, *QUICK, "--out", out)
    assert "model_overview: not in the cache, computed now on 6 prompts" in said
    rows = found["results"]["model_overview"][""]
    assert [row["arch"] for row in rows] == ["mamba", "stable_mamba_attached"] and found["questions"] == 9
    for row, path in zip(rows, models, strict=True):
        model = load(path)
        items = encode(model, facts.prompts(per_level=1, stream="interp"), max_tokens=512).items
        assert row["model"] == path.name and row["parameters"] == model.n_parameters and row["n_questions"] == 6
        assert row["state_bytes"] == model.zero_state(1).n_bytes and row["longest"] == max(len(i.prompt) for i in items)
    assert rows[0]["state_bytes_longest"] == rows[0]["state_bytes"]  # a recurrence keeps as much as before
    assert rows[1]["state_bytes_longest"] > rows[1]["state_bytes"]  # attention keeps every token
    assert rows[0]["difference"] is None and rows[1]["difference"] is not None
    files = {"model_overview.parquet", "model_comparison-effects.parquet", "model_comparison-prompts.parquet"}
    assert files <= read_run(out).files.keys() and read_run(out).command == "compare"
    assert pq.read_table(out / "model_overview.parquet").to_pylist() == rows
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "models side by side" in page.lower() and "stable_mamba_attached" in page
    capsys.readouterr()
    words = ["compare", *map(str, models), *QUICK, "--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main(words) == 0  # everything is there already
    shown = capsys.readouterr()
    assert "computed now" not in shown.err
    lines = {line.split("  ")[0].strip(): line for line in shown.out.splitlines()}
    assert f"{rows[0]['parameters']:,}" in lines["parameters"] and f"{rows[1]['parameters']:,}" in lines["parameters"]
    assert "share of answers right" in lines and "residual, last" in lines and "prompts that count" in lines


def test_a_plan_says_what_would_be_done_and_does_nothing(run, models, tmp_path) -> None:
    found, said = run(*models, *QUICK, "--dry-run")
    assert {entry["step"] for entry in found["steps"]} == {"model_overview", "model_comparison"}
    assert len(found["models"]) == 2 and "computed" not in said and not (tmp_path / "cache").exists()
    every, _ = run(*models, *QUICK, "--steps", "all", "--dry-run")
    steps = {entry["step"] for entry in every["steps"]}
    assert {"causal_equivalence", "universality", "model_overview", "model_comparison"} <= steps
    assert "attribution" not in steps


def test_what_is_shared_is_shown_too(models, tmp_path, capsys) -> None:
    small = ["blocks=1", "maps=[ridge]", "draws=1", "chance_draws=3", "resamples=100", "bases=[channels]"]
    words = [word for setting in small for word in ("--set", f"causal_equivalence.{setting}")]
    words += ["--set", "universality.by=all", "--set", "universality.fewest=2", "--set", "universality.splits=1"]
    words += ["--set", "universality.draws=1", "--set", "universality.shuffled_models=1"]
    steps = ["--steps", "causal_equivalence,universality", "--cache", str(tmp_path / "cache")]
    assert main(["compare", *map(str, models), *QUICK, *words, *steps]) == 0
    shown = capsys.readouterr().out
    assert "What remains of the answers" in shown and "Units that circuits share" in shown
    assert "shuffled weights" in shown and "nan" not in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name two or more"),
        (["tiny-nothing"], 3, "no model"),
        (["B", "--steps", "attribution"], 2, "looks at one model; those that compare: causal_equivalence"),
        (["B", "--steps", "universalty"], 2, "did you mean 'universality'"),
        (["B", "--questions", "absent.parquet"], 3, "absent.parquet"),
        (["B", "--layers", "7"], 2, "allowed: 0 to 1"),
        (["B", "--steps", "causal_equivalence", "--set", "causal_equivalence.sites=[mixer_ot]"], 2, "'mixer_out'"),
        (["B", "--set", "model_overview.confidence=2"], 2, "less than 1"),
    ],
)
def test_wrong_input_ends_with_one_sentence_before_anything_is_done(
    run, models, tmp_path, words, code, message
) -> None:
    words = [models[1] if word == "B" else word for word in words]
    found, said = run(models[0], *words, "--address", "none", "--per-level", "1", code=code)
    assert message in found["error"]["message"] and "computed" not in said
    assert not (tmp_path / "cache").exists()
