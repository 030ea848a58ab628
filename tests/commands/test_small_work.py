"""Small work needs no Ray, folders are named after what is in them, and a folder of data files gives what it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.commands import main
from mplat.commands.frame import where
from mplat.commands.frame.folders import run_folder
from mplat.commands.frame.options import Shared, _check_gpus
from mplat.commands.frame.run import Run, _session
from mplat.core.errors import UsageError
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.models import load


@pytest.fixture
def no_ray(monkeypatch):
    """Every session that commands open, by its address; Ray is not started."""
    import mplat.runtime as runtime

    opened: list[str] = []
    real = runtime.open_session

    def record(address, **more):
        opened.append(address)
        return real("none")

    monkeypatch.setattr(runtime, "open_session", record)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return opened


def test_the_rule(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    small, large = where.SMALL_WORK, where.SMALL_WORK + 1
    assert where.place("auto", False, small) == "none" and where.place("auto", False, large) == "auto"
    assert where.place("auto", True, small) == "auto" and where.place("local", False, small) == "local"
    assert where.place("10.0.0.1:6379", False, 0) == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert where.place("auto", False, small) == "auto"


def test_work_on_a_gpu_is_done_here_or_by_workers_that_have_one(monkeypatch):
    import mplat.runtime as runtime

    opened = []
    monkeypatch.setattr(runtime, "open_session", lambda address, **more: opened.append((address, more)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def session(device, operations=1e30, **typed):
        _session(Run(lambda at: None, None, operations, device), Shared(**typed))
        return opened[-1][0], opened[-1][1].get("gpus_per_actor")

    assert session("cpu") == ("auto", 0) and session("cuda:0") == ("none", 0)
    assert session("cuda:0", address="local") == ("local", 1) and session("cuda:0", actors=2) == ("auto", 1)
    assert session("cuda:0", gpus_per_actor=0.5) == ("auto", 0.5) and session("cpu", gpus_per_actor=2) == ("auto", 2)
    assert session("cuda:0", 0, address="local") == ("none", None), "there is nothing to compute"
    with pytest.raises(UsageError, match=r"^--gpus-per-actor 0: workers have no GPU, and --device is cuda:0; leave"):
        session("cuda:0", address="local", gpus_per_actor=0)
    with pytest.raises(UsageError, match=r"^--device cuda:1: Ray chooses the GPU of each worker; give --device cuda"):
        session("cuda:1", actors=2)
    assert session("cuda:1") == ("none", 0)
    assert session("cpu", threads_per_actor=3) and opened[-1][1]["threads_per_actor"] == 3


@pytest.mark.parametrize("typed", [-1, 1.5, float("nan"), float("inf")])
def test_i10_what_is_no_share_of_a_gpu_is_refused(typed):
    with pytest.raises(UsageError, match=r"^--gpus-per-actor .*: give a share of one GPU, such as 0.5, or a whole"):
        _check_gpus(typed)
    assert [_check_gpus(share) for share in (None, 0, 0.25, 1, 4)] == [None, 0, 0.25, 1, 4]


def test_the_tokens_of_an_evaluation_are_counted_in_every_condition():
    config = EvalConfig.model_validate(
        {
            "per_level": 3,
            "draws": 2,
            "max_new_tokens": 5,
            "controls": ["random", "prompt", "shuffled_labels"],
            "doses": [0.5],
            "likelihood": False,
            "steering": {"layers": [1], "sites": ["mixer_out"]},
        }
    ).model_copy(update={"model": "tiny-mamba2"})
    plan = prepare(config, load("tiny-mamba2"))
    size = {name: len(prompt.tokens) + 5 for name, prompt in plan.prompts.items()}
    assert plan.search is not None
    searched = 3 * plan.search.tokens + 2 * sum(size[q.id] for q in plan.development)  # two on shuffled answers
    assert plan.tokens == searched + sum(size[q.id] for q in plan.test) * (1 + 1 + 1 + 2 + 1 + 2)
    assert prepare(config.model_copy(update={"likelihood": True}), plan.model).tokens > plan.tokens


@pytest.mark.slow
def test_a_modest_evaluation_of_a_tiny_model_is_small_and_that_of_a_large_one_is_not():
    few = {"model": "tiny-mamba2", "controls": ["random"], "draws": 5, "steering": {"sites": ["mixer_out"]}}
    plan = prepare(EvalConfig.model_validate(few), load("tiny-mamba2"))
    work = where.forward_operations(plan.model, plan.tokens)
    assert work <= where.SMALL_WORK < work * 130e6 / plan.model.n_parameters


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--model", "tiny-mamba", "--per-level", "1", "--max-new-tokens", "1", "--steering", "none"],
        ["interp", "--model", "tiny-mamba", "--per-level", "1", "--steps", "attribution"],
        ["trace", "--model", "tiny-mamba", "--prompt", "Q: Where", "--subject", "Where", "--sites", "resid_post"],
    ],
    ids=lambda words: words[0],
)
def test_small_work_is_done_here(no_ray, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    assert no_ray == ["none"]
    out = json.loads(capsys.readouterr().out)["out"]
    assert out in (None, f"runs/{words[0]}-tiny-mamba")


def test_a_folder_is_named_after_the_model_and_the_file_of_questions():
    model = load("tiny-mamba2")
    assert run_folder("eval", model, None) == Path("runs/eval-tiny-mamba2")
    assert run_folder("eval", model, Path("data/capitals.jsonl.gz")) == Path("runs/eval-tiny-mamba2-capitals")
    assert run_folder("trace", model, "known_1000") == Path("runs/trace-tiny-mamba2-known_1000")


def test_a_folder_with_one_data_set_is_classified_and_the_others_named(tmp_path, capsys):
    asked = {"id": "1", "question": "Where does Ann live?", "answers": [{"text": "Rome", "answer_start": 13}]}
    paragraph = {"context": "Ann lives in Rome. Bo lives in Bari.", "qas": [asked]}
    data = {"version": "1.1", "data": [{"title": "T", "paragraphs": [paragraph]}]}
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(data))
    assert main(["classify", "--data-dir", str(tmp_path), "--json"]) == 0
    told = capsys.readouterr()
    assert list(json.loads(told.out)["datasets"]) == ["squad"]
    assert "not there and left out: drop, hotpotqa" in told.err
    assert main(["classify", "--data-dir", str(tmp_path), "--datasets", "squad,drop"]) == 3
    assert "no DROP file among 1 data files" in capsys.readouterr().err
    (tmp_path / "dev-v1.1.json").write_text('{"a": 1}')
    assert main(["classify", "--data-dir", str(tmp_path)]) == 3
    assert "no file of a known data set among 1 data files; expected drop:" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_computed_with_what_helps(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "file" / "cache"))
    words = ["--model", "tiny-mamba", "--per-level", "2", "--address", "none"]
    assert main(["interp", *words, "--steps", "attribution"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is a file, not a folder; set MPLAT_CACHE to a folder that can be written to" in error
    assert main(["interp", *words, "--steps", "attribution", "--cache", str(tmp_path / "file" / "x")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_a_window_of_more_blocks_than_there_are_is_refused(capsys):
    words = ["trace", "--model", "tiny-mamba", "--prompt", "Q: Where", "--subject", "Where", "--window", "99"]
    assert main([*words, "--dry-run"]) == 2
    n = load("tiny-mamba").n_layers
    assert f"--window 99: tiny-mamba has {n} blocks, so 1 to {n} can be restored" in capsys.readouterr().err
