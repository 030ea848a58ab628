"""Noise that is known: text with wrong answers and text with shuffled words are left out."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from facts_corpus import exchanged, records
from mplat.datasets.facts import Difficulty, training_text
from mplat.models import load
from mplat.refine.refine_config import RefineConfig
from mplat.refine.refine_run import prepare, refine
from mplat.runtime import open_session
from planted_models import talking

ROOT = Path(__file__).resolve().parents[2]


def test_a_wrong_text_has_the_words_of_the_right_one_and_no_right_answer():
    made = training_text(3, 5, Difficulty())
    wrong = exchanged(made)
    assert wrong is not None and Counter(wrong.split()).keys() == Counter(made.text.split()).keys()
    shown = [line for line in wrong.splitlines() if line.startswith("A:")]
    right = [line for line in made.text.splitlines() if line.startswith("A:")]
    assert len(shown) == len(right) > 3 and not any(a == b for a, b in zip(shown, right, strict=True))


def test_a_teacher_that_looks_answers_up_leaves_out_the_texts_with_wrong_ones(tmp_path):
    """Half of the answers are wrong, and a reference that knows nothing cannot tell."""
    made = [r for r in records(120, 0.5, seed=7) if len(str(r["text"])) > 300][:48]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    right = sum(record["meta"]["pile_set_name"] == "right" for record in made)  # type: ignore[index]
    config = RefineConfig(data=(tmp_path / "corpus.jsonl",), keep=round(right / len(made), 3) - 0.01, chunk=512)
    with open_session("none") as session:
        result = refine(prepare(config, talking("mamba", gain=1.0), load("tiny-mamba")), out=tmp_path, session=session)
    kept = [r["set"] for r in pq.read_table(tmp_path / "scores.parquet").to_pylist() if r["kept"]]
    assert len(kept) == result.sets[-1].kept_chunks > 15
    assert kept.count("right") / len(kept) >= 0.95


@pytest.mark.slow
def test_of_real_text_among_shuffled_words_the_real_text_is_kept(shared_data, tmp_path, monkeypatch):
    """The benchmark with fewer documents and steps; models trained here."""
    monkeypatch.setenv("MPLAT_SHARED_DATA", str(shared_data))
    spec = importlib.util.spec_from_file_location("benchmark_refine", ROOT / "benchmarks" / "refine.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "PER_SET", 90)
    monkeypatch.setattr(benchmark, "VOCABULARY", 1024)
    monkeypatch.setattr(benchmark, "CHUNKS", (256,))
    monkeypatch.setattr(benchmark, "REFERENCE", {"steps": 60, "model": {"arch": "mamba", "size": "nano"}})
    monkeypatch.setattr(benchmark, "TEACHER", {"steps": 200, "model": {"arch": "mamba", "size": "nano"}})
    monkeypatch.setattr(sys, "argv", ["refine.py", "--folder", str(tmp_path), "--out", str(tmp_path / "found.json")])
    benchmark.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"][0]["real_share_of_kept_chunks"] >= 0.95
    assert 0.4 < found["one_model"]["real_share_of_kept_chunks"] < 0.6
