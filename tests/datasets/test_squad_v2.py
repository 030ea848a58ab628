"""SQuAD v2.0: questions may have no answer, if they say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.core.errors import InputError
from mplat.datasets.readers.sentences import EXAMPLE
from mplat.datasets.readers.squad import Squad
from mplat.datasets.readers.squad_v2 import SquadV2
from mplat.datasets.reading import read
from mplat.datasets.sources.finding import find


def nested(*qas: dict) -> dict:
    return {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": EXAMPLE, "qas": list(qas)}]}]}


def qa(question_id: str, *texts: str, **changes: object) -> dict:
    answers = [{"text": text, "answer_start": EXAMPLE.index(text)} for text in texts]
    return {"id": question_id, "question": "?", "answers": answers, "is_impossible": not texts, **changes}


def store(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_an_unanswerable_question_has_no_answer_no_evidence_and_an_empty_gold(tmp_path: Path) -> None:
    reading = read("squad_v2", store(tmp_path / "dev.json", SquadV2.sample.values[0]))
    answerable, impossible = reading.questions
    assert (answerable.answerable, answerable.answers, answerable.gold()) == (
        True,
        ("Rome", "3 dogs"),
        ["Rome", "3 dogs"],
    )
    assert (impossible.answerable, impossible.answers, impossible.gold()) == (False, (), [])
    assert impossible.supporting_facts == () and impossible.context == answerable.context
    assert answerable.answer_starts == (EXAMPLE.index("Rome"), EXAMPLE.index("3 dogs"))
    assert reading.report.notes == {"plausible answers of unanswerable questions, left out": 1}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (qa("x", is_impossible=False), "no_answer"),
        ({key: value for key, value in qa("x").items() if key != "is_impossible"}, "no_answer"),
        (qa("x", "Rome", is_impossible=True), "contradiction"),
        (qa("x", "Rome", is_impossible="no"), "wrong_type"),
        (qa("x", answers=[{"text": " ", "answer_start": 0}]), "no_answer"),
        (qa("x", answers=None), "missing_field"),
        (qa("x", answers=[{"text": "Paris", "answer_start": 0}]), "answer_not_in_context"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, wrong: dict, reason: str) -> None:
    reading = read("squad_v2", store(tmp_path / "dev.json", nested(qa("q", "Rome"), wrong)), fail_over=0.5)
    assert reading.report.bad == {reason: 1}


def test_the_two_versions_are_told_apart_by_what_is_in_the_file(tmp_path: Path) -> None:
    one, two = Squad.sample, SquadV2.sample
    assert one is not None and two is not None and one.original is not None and two.original is not None
    store(tmp_path / "a.json", one.original[0])
    store(tmp_path / "b.json", two.original[0])
    store(tmp_path / "c.json", one.rows)
    store(tmp_path / "d.json", two.rows)
    store(tmp_path / "squad_v2-train.json", one.rows)  # the first rows of v2's training file are all answerable
    found = find(["squad", "squad_v2"], tmp_path)
    assert [path.name for path in found["squad"].files] == ["a.json", "c.json"]
    assert [path.name for path in found["squad_v2"].files] == ["b.json", "d.json", "squad_v2-train.json"]
    with pytest.raises(InputError, match=r"all answerable, as those of v1\.1 are"):
        read("squad_v2", tmp_path / "c.json")


def test_the_real_share_of_unanswerable_questions(shared_data: Path) -> None:
    path = shared_data / "squad_v2" / "validation_hf.jsonl.zst"
    if not path.exists():
        pytest.skip("validation_hf.jsonl.zst not present")
    questions = read("squad_v2", path).questions
    assert sum(question.answerable is False for question in questions) == sum(not q.answers for q in questions) == 266
    assert all(question.gold() == list(question.answers) for question in questions)
