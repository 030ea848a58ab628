"""`mplat interp --explain`: a folder with a page, what it refuses, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.runtime.record import read_run

ASKED = {"id": "box", "prompt": "The <b> $x$ box is in Rome. It is <b> $x$ in", "answers": ["Rome"]}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "own.jsonl").write_text(json.dumps(ASKED))
    model = reader().save(folder / "nano")
    return ["interp", "--model", str(model), "--questions", str(folder / "own.jsonl"), "--cache", str(folder / "cache")]


@pytest.mark.slow
def test_a_question_becomes_a_folder_with_a_page(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    typed = [*words, "--explain", "box", "--set", "fact_tracing.samples=1", "--out", str(out), "--json"]
    assert main(typed) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["question"] == "box" and found["evidence"]["text"].strip() == "Rome" and found["not_ok"] == {}
    assert sorted([*found["files"], "run.json"]) == sorted(path.name for path in out.iterdir())
    assert json.loads((out / "explanation.json").read_text())["findings"] == found["findings"]
    assert found["blocks"]["states"] == pq.read_table(out / "states.parquet").to_pylist()
    text = (out / "explain.html").read_text()
    assert "box in nano" in text and "--explain box" in text
    assert "<b> $" not in text and text.count("<figure><svg") >= 6  # a token is neither markup nor a formula
    assert read_run(out).command == "interp --explain" and read_run(out).status == "done"
    assert main([*words, "--explain", "box", "--seed", "5", "--out", str(out)]) == 2  # another run is not written over
    assert "differs in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--explain", "bx"], "did you mean 'box'"),
        (["--explain", "box", "--steps", "knockout"], "leave it out, or --steps"),
        (["--explain", "box", "--check"], "leave it out, or --check"),
        (["--explain", "box", "--layers", "9"], "9"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--explain", "box", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "box"
