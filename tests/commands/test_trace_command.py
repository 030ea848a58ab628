"""`mplat trace` end to end: one prompt, many facts, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from interp_jobs import reader
from mplat.commands import main
from mplat.core.config import load_config
from mplat.interp.methods.trace_config import TraceConfig
from mplat.interp.methods.trace_schema import STATUSES
from mplat.interp.tracing import causal_trace, prompt_seed
from mplat.models.decoding.generation import encode

ONE = ["--prompt", "Rome is in the south", "--subject", "Rome"]
CHEAP = ["--address", "none", "--sites", "resid_post,h_post+conv_state", "--samples", "2"]
SEVERAL = [*CHEAP, "--set", "resamples=100", "--set", "pictures=1"]
RECORDS = [
    {"known_id": i, "subject": subject, "attribute": "Italy", "template": "{} is in", "prediction": " Italy",
     "prompt": f"{subject} is in", "relation_id": "P17"}
    for i, subject in enumerate(["Rome", "Milan", "the old town", "Turin", "Pisa"])
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader().save(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "somewhere").mkdir()
    (folder / "somewhere" / "known.json").write_text(json.dumps(RECORDS))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*words: object, code: int = 0) -> tuple[Any, str]:
        """Runs `mplat trace WORDS --json`; its object and what it says besides."""
        assert main(["trace", *map(str, words), "--json"]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return call


def test_one_prompt_is_traced_and_its_tables_and_pictures_written(run, model, tmp_path) -> None:
    found, _ = run("--model", model, *ONE, *CHEAP, "--noise", "0.5", "--answer", "Italy", "--out", tmp_path / "out")
    assert sorted(found["files"]) == [
        "averages.parquet", "heat_maps/prompt.png", "heat_maps/prompt.svg", "trace.html", "traces.parquet",
    ]  # fmt: skip
    nano = reader()
    tokens = torch.tensor(encode(nano, ["Rome is in the south"])[0])
    n = len(encode(nano, ["Rome"])[0])
    answer = encode(nano, [" Italy"])[0][0]
    rows = pq.read_table(tmp_path / "out" / "traces.parquet").to_pylist()
    alone = causal_trace(
        nano, tokens, subject=(0, n), noise=0.5, samples=2, seed=prompt_seed(1, rows[0]["id"]),
        sites=["resid_post", "h_post+conv_state"], answer=answer,
    ).to_pylist()  # fmt: skip
    place = ("site", "layer", "position")
    effects = {tuple(row[key] for key in place): row["effect"] for row in rows}
    assert effects == {tuple(row[key] for key in place): pytest.approx(row["effect"], abs=1e-9) for row in alone}
    best = max(alone, key=lambda row: (row["site"] == "resid_post", row["effect"]))
    assert found["strongest"][0]["site"] == "resid_post"
    assert found["strongest"][0]["effect"] == pytest.approx(best["effect"], abs=1e-9)
    assert found["statuses"] == {"ok": 1} and found["excluded"] == {}


@pytest.mark.slow
def test_facts_come_from_a_set_among_data_files_and_from_a_file(run, model, data, tmp_path) -> None:
    words = ["--model", model, *SEVERAL, "--all"]
    found, said = run(*words, "--facts", "known_1000", "--data-dir", data, "--out", tmp_path / "set")
    assert found["traced"] == found["prompts"] == 5 and "5, all of them" in said
    assert found["total_effect"]["ate_low"] <= found["total_effect"]["ate"] <= found["total_effect"]["ate_high"]
    file = data / "somewhere" / "known.json"
    again, _ = run(*words, "--facts", file, "--out", tmp_path / "file")
    assert again["files"] == found["files"]
    few, _ = run(*words, "--facts", file, "--limit", 2, "--out", tmp_path / "few", "--dry-run")
    assert few["plan"]["prompts"] == 2 and not (tmp_path / "few").exists()


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_other_settings_are_refused(run, model, data, tmp_path) -> None:
    words = [
        "--model",
        model,
        "--facts",
        "known_1000",
        "--data-dir",
        data,
        "--all",
        *SEVERAL,
        "--out",
        tmp_path / "out",
    ]
    first, _ = run(*words)
    second, said = run(*words)
    assert second["files"] == first["files"] and "all 5 prompts are there from an earlier run" in said
    found, _ = run(*words, "--window", "2", code=2)
    assert "differs in window" in found["error"]["message"]
    third, _ = run(*words, "--window", "2", "--fresh")
    assert third["files"]["traces.parquet"] != first["files"]["traces.parquet"]


def test_where_no_fact_is_answered_correctly_the_end_is_1_and_says_what_to_do(run, model, data, tmp_path) -> None:
    words = ["--model", model, "--facts", "known_1000", "--data-dir", data, *CHEAP, "--out", tmp_path]
    found, said = run(*words, code=1)
    assert found["statuses"] == {"model_wrong": 5} and found["strongest"] == []
    assert "no prompt was traced (model_wrong 5); --all traces them too" in said


@pytest.mark.slow
def test_prompts_that_fail_are_tolerated_as_far_as_asked(run, model, data, tmp_path) -> None:
    words = ["--model", model, "--facts", "known_1000", "--data-dir", data, *SEVERAL, "--all", "--set", "max_tokens=5"]
    _, said = run(*words, "--out", tmp_path / "a", code=1)
    assert "of the prompts failed, more than the --fail-over 0.05 allows" in said
    found, _ = run(*words, "--out", tmp_path / "b", "--fail-over", "0.9")
    assert found["statuses"]["too_long"] >= 1 and found["traced"] >= 1


def test_generated_facts_need_no_files(run, model, tmp_path) -> None:
    found, _ = run("--model", model, "--facts", "generated", "--limit", 3, "--dry-run", "--out", tmp_path / "no")
    assert found["plan"]["prompts"] == 3 and found["plan"]["corruption"] == "noise" and found["plan"]["noise"] > 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "say what to trace"),
        ([*ONE, "--facts", "generated"], 2, "not both"),
        (["--prompt", "Rome is in"], 2, "needs --subject"),
        (["--prompt", "Rome is in", "--subject", "Paris"], 2, "'Paris' does not occur in --prompt"),
        ([*ONE, "--corrupt-with", "the whole of the old town"], 2, "equal token length"),
        ([*ONE, "--corrupt-with", "Rome"], 2, "leaves the prompt as it is"),
        ([*ONE, "--answer", " "], 2, "--answer is empty"),
        ([*ONE, "--sites", "resid_pots"], 2, "did you mean 'resid_post'"),
        ([*ONE, "--sites", "h,h"], 2, "more than once"),
        ([*ONE, "--layers", "2"], 2, "allowed: 0 to 1"),
        ([*ONE, "--window", "0"], 2, "--window 0"),
        ([*ONE, "--samples", "0"], 2, "--samples 0"),
        ([*ONE, "--noise", "-1"], 2, "--noise -1"),
        ([*ONE, "--metric", "probability"], 2, "--metric probability"),
        ([*ONE, "--limit", "3"], 2, "--limit belongs to --facts"),
        ([*ONE, "--set", "sample=3"], 2, "did you mean 'samples'"),
        (["--facts", "known_100"], 2, "did you mean 'known_1000'"),
        (["--facts", "known_1000", "--data-dir", "nowhere"], 3, "there is no such folder"),
        (["--facts", "generated", "--subject", "x"], 2, "--subject belongs to --prompt"),
        (["--facts", "generated", "--corruption", "replacement", "--noise", "1"], 2, "leave one of them out"),
    ],
)
def test_wrong_inputs_end_before_anything_is_done(run, model, tmp_path, words, code, message) -> None:
    found, _ = run("--model", model, "--address", "none", "--out", tmp_path / "out", *words, code=code)
    assert message in found["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_model_must_be_named_and_be_there(run) -> None:
    assert "give --model" in run(*ONE, code=2)[0]["error"]["message"]
    assert "no model" in run("--model", "tiny-nothing", *ONE, code=3)[0]["error"]["message"]


def test_the_document_explains_every_status_and_its_example_runs(root, capsys) -> None:
    text = (root / "docs" / "tracing.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M)[-len(STATUSES) :] == list(STATUSES)
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(block, "docs/tracing.md", "exec"), {})
    assert capsys.readouterr().out == "2\n"  # the layer whose state holds the fact, as the notebook shows


def test_the_shipped_configurations_are_valid_and_the_default_one_changes_nothing(root) -> None:
    for path in (root / "configs" / "trace").glob("*.yaml"):
        load_config(TraceConfig, path, [])
    assert load_config(TraceConfig, root / "configs" / "trace" / "default.yaml", []) == TraceConfig()
