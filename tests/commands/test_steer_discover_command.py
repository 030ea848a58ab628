"""`mplat steer discover`: the search alone, what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from mplat.commands import main
from mplat.datasets.prompting.asked_before import question_digests
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.models import load
from mplat.steering import Recipe
from mplat.steering.search import SEARCH_SCHEMA
from planted_models import talking

FEW = ["--per-level", "3", "--set", "development_share=0.4", "--layers", "1,2", "--sites", "mixer_out",
       "--budget", "700000"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discover") / "model"
    talking("mamba").save(folder)
    return folder


@pytest.fixture
def run(model, capfd):
    def call(*words: object):
        code = main(["steer", "discover", "--model", str(model), *FEW, *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_dry_run_says_the_tokens_and_writes_nothing(run, tmp_path):
    code, out, err = run("--dry-run", "--json", "--out", tmp_path / "out")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["places"] == ["blocks.1.mixer_out", "blocks.2.mixer_out"] and 0 < planned["tokens"] <= 700_000
    assert not (tmp_path / "out").exists()
    assert f"{planned['tokens']:,} tokens" in err or f"{planned['tokens']:,} tokens" in run("--dry-run")[1]


@pytest.mark.slow
def test_it_keeps_a_recipe_that_is_not_judged_on_what_it_was_found_on(run, model, tmp_path):
    code, out, err = run("--out", tmp_path / "out")
    assert code == 0, err
    assert "cross-fitted" in out and str(tmp_path / "out" / "recipe.json") in out
    opened = load(str(model))
    recipe = Recipe.load(tmp_path / "out" / "recipe.json", opened)
    config = EvalConfig(model=str(model), per_level=3, development_share=0.4)
    plan = prepare(config, opened)
    assert recipe.decided_on == tuple(question_digests(plan.development))
    table = pq.read_table(tmp_path / "out" / "search.parquet")
    assert table.schema.equals(SEARCH_SCHEMA) and set(table["layer"].to_pylist()) <= {1, 2}
    code, _, err = run("--out", tmp_path / "out")
    assert code == 2 and "--fresh" in err


def test_what_cannot_be_searched_is_refused(run, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    for words, why in (
        (["--steering", "none"], "no meaning"),
        (["--sites", "mixer.q"], "mixer.q"),
        (["--budget", "10"], "raise it"),
        (["--out", tmp_path], "another command"),
    ):
        code, out, err = run(*words)
        assert code == 2 and out == "" and why in err, (words, err)
