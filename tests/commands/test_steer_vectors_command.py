"""`mplat steer vectors`: what it shows, what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pytest
from mplat.commands import build_app
from mplat.models import load
from mplat.steering.vectors import Vectors
from typer.testing import CliRunner


def run(*arguments: str):
    return CliRunner().invoke(build_app(), ["steer", "vectors", *arguments])


@pytest.fixture
def pairs(tmp_path):
    rows = [{"positive": f"{name} lives in Karfen.", "negative": f"{name} lives in Nornik."} for name in "ABCDEFGH"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_vectors_of_pairs_are_shown_and_kept(pairs, tmp_path):
    out = tmp_path / "out"
    done = run(str(pairs), "--model", "tiny-mamba", "--layers", "0,2", "--out", str(out), "--folds", "4")
    assert done.exit_code == 0, done.output
    assert "8 positive and 8 negative texts" in done.stdout and "held-out AUROC" in done.stdout
    vectors = Vectors.load(out / "vectors.json", load("tiny-mamba"))
    assert list(vectors.layers) == [0, 2] and vectors.folds == 4
    said = json.loads(run(str(pairs), "--model", "tiny-mamba", "--layers", "0,2", "--folds", "4", "--json").stdout)
    assert said["layers"] == json.loads((out / "vectors.json").read_text())["layers"] and said["out"] is None


def test_a_dry_run_reads_the_texts_and_writes_nothing(pairs, tmp_path):
    done = run(str(pairs), "--model", "tiny-mamba", "--out", str(tmp_path / "out"), "--dry-run", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["texts"] == 16
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no model is named"),
        (["--model", "tiny-mamba", "--positive", "level=1"], "give both"),
        (["--model", "tiny-mamba", "--method", "pca"], "no vector method 'pca'"),
        (["--model", "tiny-mamba", "--site", "mixer.q"], "has a site 'mixer.q'"),
    ],
)
def test_what_is_missing_or_wrong_is_said(pairs, more, message):
    done = run(str(pairs), *more)
    assert done.exit_code != 0 and message in str(done.exception)
