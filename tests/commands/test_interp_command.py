"""`mplat interp`, `mplat interp ls` and `mplat cache` end to end, on a nano model in a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from interp_jobs import asked, reader
from mplat.commands import main
from mplat.datasets.records import QUESTION_SCHEMA, to_table
from mplat.interp import Job, all_steps
from mplat.interp.engine.step import STEPS, StepOutput, step
from mplat.runtime.record import read_run
from safetensors.torch import load_file

FAST = ["--per-level", "1", "--address", "none", "--set", "bottlenecks.resamples=100",
        "--set", "bottlenecks.detector_resamples=20", "--set", "bottlenecks.detector_draws=19"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader().save(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def call(*words: object, code: int = 0) -> tuple[Any, str]:
        """Runs `mplat WORDS --json` with a cache of its own; its object and what it says besides."""
        arguments = [str(word) for word in words]
        if arguments[:2] != ["interp", "ls"]:
            arguments += ["--cache", str(tmp_path / "cache")]
        assert main([*arguments, "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return call


@pytest.mark.slow
def test_steps_are_computed_once_and_their_tables_written(run, model, tmp_path) -> None:
    words = ["interp", "--model", model, "--steps", "bottlenecks,activations", "--out", tmp_path / "out", *FAST]
    first, said = run(*words)
    assert [(s["step"], s["cached"]) for s in first["steps"]] == [
        ("activations", False), ("attribution", False), ("delta_sensitivity", False), ("bottlenecks", False),
    ]  # fmt: skip
    assert "bottlenecks: not in the cache, computed now on 6 prompts" in said
    tables = ["activations-mixer.delta", "activations-mixer_out", "activations-resid_post", "bottlenecks",
              *(f"bottlenecks-{part}" for part in ("agreement", "detectors", "layers", "planted"))]  # fmt: skip
    files = sorted([*(f"{t}.parquet" for t in tables), "prompts.parquet", "run.json"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == files
    record = read_run(tmp_path / "out")
    assert record.command == "interp" and record.details["steps"]["bottlenecks"]["parts"][""] == "bottlenecks.parquet"
    assert record.backend is not None and record.backend.kernels["scan"] in ("numba", "torch")
    assert record.data is not None and record.data.counts == {"questions": 6}
    second, said = run(*words)
    assert [(s["step"], s["cached"]) for s in second["steps"]] == [("activations", True), ("bottlenecks", True)]
    assert "computed" not in said
    cached = {entry["step"] for entry in run("cache", "ls")[0]["entries"]}
    assert cached == {"activations", "attribution", "bottlenecks", "delta_sensitivity"}


def test_a_plan_says_what_is_missing_and_writes_nothing(run, model, tmp_path) -> None:
    found, _ = run("interp", "--model", model, "--steps", "attribution", "--layers", "1", "--dry-run", *FAST)
    assert found["layers"] == [1] and [(s["step"], s["cached"]) for s in found["steps"]] == [("attribution", False)]
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_all_steps_are_those_that_what_is_named_suits(run, model) -> None:
    """No step is asked for that lacks its facts, texts or further models; with these it is."""
    words = ["interp", "--model", model, "--steps", "all", "--dry-run", *FAST]
    alone = {name for name, step in all_steps().items() if not step.others or step.takes(0)}
    questions = {name for name in alone if all_steps()[name].items == "questions"}
    assert {entry["step"] for entry in run(*words)[0]["steps"]} == questions > {"eigenvalues"}
    compared = [*words, "--set", "facts=generated", "--set", f'compare=["{model}"]']
    suits = {name for name, step in all_steps().items() if step.items != "texts" and (not step.others or step.takes(1))}
    assert {entry["step"] for entry in run(*compared)[0]["steps"]} == suits


def test_questions_come_from_a_file(run, model, tmp_path) -> None:
    pq.write_table(to_table(asked(per_level=1, seed=3)[:2]), tmp_path / "q.parquet")
    words = ["interp", "--model", model, "--steps", "attribution", "--address", "none", "--questions"]
    assert run(*words, tmp_path / "q.parquet")[0]["questions"] == 2
    pq.write_table(QUESTION_SCHEMA.empty_table(), tmp_path / "empty.parquet")
    found, _ = run(*words, tmp_path / "empty.parquet", code=3)
    assert "holds no question" in found["error"]["message"]
    found, _ = run(*words, tmp_path / "absent.parquet", code=3)
    assert "absent.parquet" in found["error"]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "botlenecks"], "did you mean 'bottlenecks'"),
        (["--layers", "2"], "allowed: 0 to 1"),
        (["--layers", "-1"], "allowed: 0 to 1"),
        (["--layers", "0,0"], "more than once"),
        (["--set", "attribution.site=mixer_out"], "did you mean 'sites'"),
        (["--set", "attribution.sites=[mixer_ot]"], "did you mean 'mixer_out'"),
        (["--set", "activations.sites=[mixer_ot]"], "did you mean 'mixer_out'"),
        (["--set", "activations.sites=[]"], "at least one"),
        (["--set", "activations.positions=[]"], "at least one"),
        (["--set", "activations.positions=[-1,-1]"], "each of them once"),
        (["--set", "bottlenecks.top_shares=[2]"], "between 0 and 1"),
        (["--set", "bottlenecks.top_shares=[0.1,0.1]"], "each of them once"),
        (["--set", "bottlenecks.random_draws=1001"], "less than or equal to 1000"),
        (["--per-level", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_arguments_end_with_2_before_anything_is_done(run, model, tmp_path, words, message) -> None:
    for more in ([], ["--dry-run"]):
        found, said = run("interp", "--model", model, *FAST, *words, *more, code=2)
        assert message in found["error"]["message"] and "computed" not in said
    assert not (tmp_path / "cache").exists()


def test_rows_without_a_value_are_counted_and_a_step_without_any_value_ends_with_1(
    run, model, tmp_path, capsys
) -> None:
    words = ["interp", "--model", model, "--steps", "activations", "--set", "activations.positions=[-9999]", *FAST]
    for cached in (False, True):  # what came to nothing is no better when it is served again
        found, said = run(*words, code=1)
        (step,) = found["steps"]
        assert (step["cached"], step["rows"], step["not_ok"]) == (cached, 36, {"bad_input": 36})
        assert "activations: 36 of 36 rows are not ok (bad_input 36): more than the --fail-over 0.05 allows" in said
    run(*words, "--fail-over", 1, code=1)  # not one value
    assert main([*map(str, words), "--cache", str(tmp_path / "cache")]) == 1
    assert "activations: 36 of 36 rows are not ok (bad_input 36)\n" in capsys.readouterr().out


def test_a_few_rows_without_a_value_are_tolerated_as_far_as_asked(run, model, tmp_path) -> None:
    odd = dataclasses.replace(asked(per_level=1)[0], id="no answer", answers=())
    pq.write_table(to_table([*asked(per_level=1), odd]), tmp_path / "q.parquet")
    words = ["interp", "--model", model, "--steps", "activations", "--address", "none"]
    words += ["--questions", tmp_path / "q.parquet"]
    assert run(*words, code=1)[0]["steps"][0]["not_ok"] == {"bad_input": 6}  # of 42
    assert run(*words, "--fail-over", "0.2")[0]["steps"][0]["not_ok"] == {"bad_input": 6}
    run(*words, "--fail-over", "0.2", "--out", tmp_path / "out")
    assert read_run(tmp_path / "out").details["steps"]["activations"]["not_ok"] == {"bad_input": 6}
    assert "between 0 and 1" in run(*words, "--fail-over", "2", code=2)[0]["error"]["message"]


def test_a_model_must_be_named_and_be_there(run, tmp_path) -> None:
    assert "give --model" in run("interp", code=2)[0]["error"]["message"]
    assert "no model" in run("interp", "--model", "tiny-nothing", code=3)[0]["error"]["message"]


def test_steps_are_listed(run) -> None:
    found, _ = run("interp", "ls")
    by_name = {s["step"]: s for s in found["steps"]}
    assert by_name["bottlenecks"]["needs"] == ["attribution", "delta_sensitivity"]
    assert by_name["activations"]["settings"]["positions"] == [-1]


def test_f25_why_names_the_first_component_that_differs(run, model, tmp_path, capsys) -> None:
    why = ["cache", "why", "attribution", "--model", model, "--per-level", "1"]
    assert run(*why)[0] | {"key": ""} == {
        "step": "attribution", "key": "", "cached": False, "entries": 0, "differences": [],
    }  # fmt: skip
    run("interp", "--model", model, "--steps", "attribution", *FAST)
    assert run(*why)[0]["cached"]
    found, _ = run(*why, "--layers", "1")
    assert found["differences"] == [{"name": "layers", "now": [1], "then": [0, 1]}]
    found, _ = run(*why, "--seed", "1")  # other prompts
    assert found["differences"][0]["name"] == "data"
    assert main([*map(str, why), "--set", "batch_size=2", "--cache", str(tmp_path / "cache")]) == 0
    assert "first differs batches" in capsys.readouterr().out
    assert "unknown interp step" in run("cache", "why", "nothing", "--model", model, code=2)[0]["error"]["message"]


def test_verify_finds_damage_and_the_next_run_mends_it(run, model, tmp_path) -> None:
    words = ["interp", "--model", model, "--steps", "attribution", *FAST]
    key = run(*words)[0]["steps"][0]["key"]
    assert run("cache", "verify")[0]["problems"] == []
    path = tmp_path / "cache" / "attribution" / key / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    found, said = run("cache", "verify", code=1)
    assert len(found["problems"]) == 1 and str(path) in found["problems"][0] and "1 cached files are damaged" in said
    mended, said = run(*words)
    assert not mended["steps"][0]["cached"] and "is damaged and will be computed again" in said
    assert run("cache", "verify")[0]["problems"] == []


def test_a_step_of_tensors_and_several_models_is_run_listed_verified_and_explained(
    run, model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))  # the step is forgotten again

    @step("embedding_shift", others=("other",))
    def embedding_shift(job: Job) -> StepOutput:
        """How far two models' embeddings are apart."""
        one, two = (m.embedding.weight.detach() for m in job.models)
        return StepOutput({"": pa.table({"norm": [float((two - one).norm())]})}, {"": {"difference": two - one}})

    second = reader(seed=1).save(tmp_path / "second")
    words = ["--model", model, "--set", f'compare=["{second}"]', "--per-level", "1"]
    run("interp", "--steps", "embedding_shift", *words, "--out", tmp_path / "out")
    (norm,) = pq.read_table(tmp_path / "out" / "embedding_shift.parquet")["norm"].to_pylist()
    expected = (reader(seed=1).embedding.weight - reader().embedding.weight).detach()
    assert norm == pytest.approx(float(expected.norm()), rel=1e-6)
    assert torch.equal(load_file(tmp_path / "out" / "embedding_shift.safetensors")["difference"], expected)
    (entry,) = run("cache", "ls")[0]["entries"]
    assert (entry["step"], entry["rows"], entry["tensors"]) == ("embedding_shift", 1, 1)
    why = ["cache", "why", "embedding_shift", *words]
    assert run(*why)[0]["cached"]
    third = reader(seed=2).save(tmp_path / "third")
    found, _ = run(*[str(word).replace(str(second), str(third)) for word in why])
    assert [d["name"] for d in found["differences"]] == ["others.1.model"]
    path = next((tmp_path / "cache").rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in run("cache", "verify", code=1)[0]["problems"][0]
    error = run("interp", "--steps", "embedding_shift", "--model", model, code=2)[0]["error"]["message"]
    assert "embedding_shift: takes further models (other), and 0 are named" in error
