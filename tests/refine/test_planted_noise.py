"""Noise that is known: texts with wrong answers are left out."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
from facts_corpus import exchanged, records
from mplat.datasets.facts import Difficulty, training_text
from mplat.models import load
from mplat.refine.refine_config import RefineConfig
from mplat.refine.refine_run import prepare, refine
from mplat.runtime import open_session
from planted_models import talking


def test_a_wrong_text_has_the_words_of_the_right_one_and_no_right_answer():
    made = training_text(3, 5, Difficulty())
    wrong = exchanged(made)
    assert wrong is not None and Counter(wrong.text.split()).keys() == Counter(made.text.split()).keys()
    shown = [line for line in wrong.text.splitlines() if line.startswith("A:")]
    right = [line for line in made.text.splitlines() if line.startswith("A:")]
    assert len(shown) == len(right) > 3 and not any(a == b for a, b in zip(shown, right, strict=True))
    before, after = ([t.text[a:b] for a, b in t.answer_spans] for t in (made, wrong))
    exchanges = set(zip(before, after, strict=True))
    assert len(exchanges) == len(set(before)) > 1 and set(before) == set(after) and all(a != b for a, b in exchanges)


def test_a_teacher_that_looks_answers_up_leaves_out_the_texts_with_wrong_ones(tmp_path):
    """The reference is untrained, so what makes a text hard in general does not cancel, and some wrong ones pass."""
    made = [r for r in records(120, 0.5, seed=7) if len(str(r["text"])) > 300][:48]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    right = sum(record["meta"]["pile_set_name"] == "right" for record in made)  # type: ignore[index]
    config = RefineConfig(data=(tmp_path / "corpus.jsonl",), keep=round(right / len(made), 3) - 0.01, chunk=512)
    with open_session("none") as session:
        result = refine(prepare(config, talking("mamba", gain=1.0), load("tiny-mamba")), out=tmp_path, session=session)
    kept = [r["set"] for r in pq.read_table(tmp_path / "scores.parquet").to_pylist() if r["kept"]]
    assert len(kept) == result.sets[-1].kept_chunks > 15
    assert right / len(made) < 0.6 and kept.count("right") / len(kept) > 0.75
