"""`mplat eval battery`: its table, steered and not, and what it refuses."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from mplat.commands import main
from mplat.eval.battery import BATTERY_SCHEMA, assess
from mplat.models import load
from mplat.steering import Part, Recipe

FEW = ["--model", "tiny-mamba", "--tasks", "levels", "--per-task", "2"]


@pytest.fixture
def run(capfd):
    def call(*words: object):
        code = main(["eval", "battery", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_its_rows_are_those_of_the_battery_with_and_without_the_recipe(run, tmp_path):
    model = load("tiny-mamba")
    recipe = Recipe((Part("scale_channels", "mixer_out", (0, 1), 0.0),), model.digest)
    file = recipe.save(tmp_path / "silent.json")
    code, out, err = run(*FEW, "--recipe", file, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    table = pq.read_table(tmp_path / "out" / "battery.parquet")
    assert table.schema.equals(BATTERY_SCHEMA)
    expected = assess(model, recipe, tasks=["levels"], per_task=2)
    assert table.to_pylist() == expected.to_pylist() == json.loads(out)["categories"]
    assert {row["condition"] for row in expected.to_pylist()} == {"unsteered", "steered"}


def test_without_a_recipe_it_shows_one_column_and_a_dry_run_counts(run):
    code, out, err = run(*FEW)
    assert code == 0 and "simple_recall" in out and "unsteered" in out and " steered" not in out, err
    code, out, _ = run(*FEW, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["questions"] == json.loads(out)["answers"] == 12


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tasks", "levels"], "no model is named"),
        ([*FEW, "--tasks", "levls"], "did you mean 'levels'"),
        ([*FEW, "--tasks", "lambada"], "--lambada"),
        ([*FEW, "--recipe", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_is_missing_or_wrong_is_said(run, words, why):
    code, out, err = run(*words)
    assert code in (2, 3) and out == "" and why in err
