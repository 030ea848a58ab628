"""Real questions from end to end: three data sets are classified, then a steered model is judged on more than 300."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.models import load
from mplat.scoring.metrics import score
from recipes import scaled

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_classify_then_eval_on_a_private_ray(shared_data: Path, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.parquet", tmp_path / "run"
    words = ["classify", "--datasets", "squad,hotpotqa,triviaqa", "--data-dir", str(shared_data), "--quiet"]
    assert main([*words, "--per-category", "70", "--address", "none", "--out", str(questions)]) == 0
    asked = pq.read_table(questions)
    assert asked.num_rows >= 350 and set(asked["dataset"].to_pylist()) == {"squad", "hotpotqa", "triviaqa"}

    model = reader("mamba2").save(tmp_path / "model")  # what it says is judged, not whether it is right
    words = ["eval", "--model", str(model), "--steering", "mamba2", "--questions", str(questions), "--quiet"]
    recipe = scaled(load(model), (0, 1), 2.0).save(tmp_path / "recipe.json")  # a search is tested elsewhere
    small = ["--recipe", str(recipe), "--controls", "random", "--draws", "1", "--max-new-tokens", "4"]
    small += ["--set", "resamples=200"]
    small += ["--set", "price_limit=4", "--set", "development_share=0.1"]
    assert main([*words, *small, "--address", "local", "--actors", "2", "--out", str(out)]) == 0

    rows = pq.read_table(out / "items.parquet").to_pylist()
    judged = [row for row in rows if row["split"] == "test"]
    conditions = {row["condition"] for row in judged}
    assert {"unsteered", "steered", "control_random_0"} == conditions
    asked_in_all = {row["question_id"] for row in judged}
    assert len(asked_in_all) >= 300 and len(judged) == len(conditions) * len(asked_in_all)
    for row in rows:
        assert row["status"] == "ok", row["reason"]
        official = score(row["metric"], row["prediction"], row["answers"])
        assert (row["em"], row["f1"]) == (official.em, official.f1)
