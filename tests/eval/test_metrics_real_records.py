"""The answers of real records, given as predictions, are right by the metric of their own data set."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mplat.scoring import metrics
from mplat.scoring.metrics.normalize import normalise


def document(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def lines(path: Path) -> Iterator[Any]:
    text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read().decode("utf-8")
    return (json.loads(line) for line in text.split("\n") if line)


def questions(file: Any) -> dict[str, list[str]]:
    return {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in file["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }


def test_squad_v1_but_for_an_answer_that_normalises_to_nothing(shared_data: Path) -> None:
    file = document(shared_data / "squad_v1" / "dev_part_a.json.gz")
    last = {i: golds[-1] for i, golds in questions(file).items()}
    nothing = sum(not normalise(text) for text in last.values())
    result = metrics.evaluate("squad_v1", last, file)
    assert nothing > 0
    assert result == {"exact_match": 100.0, "f1": pytest.approx(100 * (1 - nothing / len(last)))}
    assert metrics.evaluate("squad_v1", {}, file) == {"exact_match": 0.0, "f1": 0.0}


def test_squad_v2(shared_data: Path) -> None:
    file = document(shared_data / "squad_v2" / "dev_part_a.json.gz")
    golds = questions(file)
    first = {i: texts[0] if texts else "" for i, texts in golds.items()}
    result = metrics.evaluate("squad_v2", first, file)
    assert (result["total"], result["HasAns_total"] + result["NoAns_total"]) == (3_782, 3_782)
    assert {result[part] for part in ("exact", "f1", "HasAns_exact", "NoAns_f1")} == {100.0}
    silent = metrics.evaluate("squad_v2", dict.fromkeys(golds, ""), file, na_probs=dict.fromkeys(golds, 0.5))
    assert silent["exact"] == pytest.approx(100 * silent["NoAns_total"] / silent["total"]) == silent["best_exact"]


def test_hotpotqa(shared_data: Path) -> None:
    records = list(lines(shared_data / "hotpotqa" / "hotpot_distractor.jsonl.zst"))
    predictions = {
        "answer": {r["_id"]: r["answer"] for r in records},
        "sp": {r["_id"]: r["supporting_facts"] for r in records},
    }
    assert set(metrics.evaluate("hotpotqa", predictions, records).values()) == {1.0}


def test_musique(shared_data: Path) -> None:
    records = list(lines(shared_data / "musique" / "musique_ans.jsonl.zst"))
    predictions = [
        {
            "id": r["id"],
            "predicted_answer": (r["answer_aliases"] or [r["answer"]])[-1],
            "predicted_support_idxs": [str(p["idx"]) for p in r["paragraphs"] if p["is_supporting"]],
            "predicted_answerable": True,
        }
        for r in records
    ]
    result = metrics.evaluate("musique", predictions, records)
    assert result == {"answer_f1": 1.0, "answer_em": 1.0, "support_f1": 1.0}


def test_triviaqa(shared_data: Path) -> None:
    file = document(shared_data / "triviaqa" / "official_rc_wikipedia-train.json")
    predictions = {datum["QuestionId"]: datum["Answer"]["Aliases"][0] for datum in file["Data"]}
    result = metrics.evaluate("triviaqa", predictions, file)
    assert (result["exact_match"], result["f1"], result["denominator"]) == (100.0, 100.0, 4)


def test_nq_open(shared_data: Path) -> None:
    records = list(lines(shared_data / "natural_questions" / "nq_open_dev.jsonl.zst"))
    predictions = {r["question"]: r["answer"][-1] for r in records}
    result = metrics.evaluate("nq_open", predictions, records)
    assert (result["accuracy"], result["num_total"]) == (1.0, 2_410)


def test_natural_questions(shared_data: Path) -> None:
    record = document(shared_data / "natural_questions" / "nq_original_dev_1record.json.gz")
    record = record[0] if isinstance(record, list) else record
    answered = [a for a in record["annotations"] if a["long_answer"]["start_token"] >= 0]
    score = metrics.score("natural_questions", (answered or record["annotations"])[0], record["annotations"])
    assert score.long_em == (1.0 if len(answered) > 1 else None)


@pytest.mark.parametrize("name", ["drop_dataset_dev_sample", "drop_dataset_train_sample", "drop_contrast_sets"])
def test_drop(shared_data: Path, name: str) -> None:
    file = document(shared_data / "drop" / f"{name}.json.gz")
    predictions = {}
    for passage in file.values():
        for pair in passage["qa_pairs"]:
            answer = pair["answer"]
            date = " ".join(str(answer.get("date", {}).get(part) or "") for part in ("day", "month", "year"))
            predictions[pair["query_id"]] = answer.get("number") or answer.get("spans") or date
    result = metrics.evaluate("drop", predictions, file, by_type=True)
    blank = result.get("none_share", 0.0)
    assert result["global_em"] == result["global_f1"] == pytest.approx(1.0 - blank)
    assert sum(value for key, value in result.items() if key.endswith("_count")) == len(predictions)
