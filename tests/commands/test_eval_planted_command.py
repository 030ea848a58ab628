"""`mplat eval planted`: its tables, and what it refuses."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from mplat.commands import main
from mplat.eval.planted.benchmark import CASES_SCHEMA, DETECTORS_SCHEMA

DAMAGED, INTACT = "tiny-mamba2:mixer_out:1/16:0", "tiny-mamba2:mixer_out:carrier"
FEW = ["--per-level", "1", "--per-level-test", "4"]


@pytest.fixture
def run(capfd):
    def call(*words: object):
        code = main(["eval", "planted", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.mark.slow
def test_leaving_every_model_alone_restores_nothing_and_raises_no_alarm(run, tmp_path):
    words = ["--search", "none", "--plants", f"{DAMAGED},{INTACT}", *FEW, "--out", tmp_path / "out"]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    said = json.loads(out)
    by_plant = {line["plant"]: line for line in said["summary"]}
    assert by_plant[DAMAGED]["restored"] == 0.0 and by_plant[DAMAGED]["damaged_share"] < 1
    assert by_plant[INTACT]["restored"] is None and (said["false_alarms"], said["intact"]) == (0, 1)
    cases, detectors = (pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("cases", "detectors"))
    assert cases.schema.equals(CASES_SCHEMA) and cases.num_rows == 2
    assert detectors.schema.equals(DETECTORS_SCHEMA) and detectors.to_pylist() == said["detectors"]
    assert (tmp_path / "out" / "controls.parquet").is_file()


def test_a_dry_run_counts_the_cases(run):
    code, out, _ = run("--plants", DAMAGED, "--seeds", "3", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["cases"] == 3


@pytest.mark.parametrize(
    ("words", "why"),
    [(["--plants", "tiny-mamba3:x"], "--plants"), (["--seeds", "0"], "--seeds 0"), (["--search", "x"], "--search x")],
)
def test_what_does_not_exist_is_refused(run, words, why):
    code, out, err = run(*words)
    assert code == 2 and out == "" and why in err
