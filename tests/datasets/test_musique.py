"""MuSiQue: hops from the decomposition, a sentence of evidence for each step, and unanswerable twins."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from mplat.datasets.readers.musique import MuSiQue
from mplat.datasets.reading import read
from mplat.datasets.records import SubQuestion, Support

RECORD = MuSiQue.sample.values[0]


def changed(**changes: object) -> dict:
    return {**copy.deepcopy(RECORD), **changes}


def lines(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_steps_point_to_paragraphs_and_evidence_is_the_sentence_with_the_step_s_answer(tmp_path: Path) -> None:
    (question,) = read("musique", lines(tmp_path / "dev.jsonl", RECORD)).questions
    assert question.hops == 2 and question.answers == ("3 dogs", "3", "three dogs") and question.answerable is True
    assert question.decomposition == (
        SubQuestion("Which city is old?", "Rome", 2, 11),
        SubQuestion("#1 >> dogs", "3 dogs", 0, 12),
    )
    assert question.supporting_facts == (Support(0, 2), Support(2, 1))
    assert "3 dogs" in question.context[0].sentences[2] and "Rome" in question.context[2].sentences[1]
    assert ["".join(p.sentences) for p in question.context] == [p["paragraph_text"] for p in RECORD["paragraphs"]]
    assert question.gold() == ["3 dogs", "3", "three dogs"]


def test_an_answer_that_is_not_in_its_paragraph_gives_the_first_sentence_and_a_note(tmp_path: Path) -> None:
    record = changed()
    record["question_decomposition"][0]["answer"] = "nowhere"
    reading = read("musique", lines(tmp_path / "dev.jsonl", record))
    assert reading.questions[0].supporting_facts == (Support(0, 2), Support(2, 0))
    assert sum(reading.report.notes.values()) == 1


def test_the_unanswerable_twin_is_another_question_that_is_not_scored(tmp_path: Path) -> None:
    twin = changed(answerable=False)
    twin["question_decomposition"][1]["paragraph_support_idx"] = None
    twin["paragraphs"][0]["is_supporting"] = False
    first, second = read("musique", lines(tmp_path / "dev.jsonl", RECORD, twin)).questions
    assert second.id == first.id + "#unanswerable" and second.answers == first.answers
    assert (first.gold(), second.gold()) == (list(first.answers), None)
    assert second.decomposition[1].paragraph is None and second.supporting_facts == (Support(2, 1),)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question_decomposition": []}, "missing_field"),
        ({"question_decomposition": None}, "missing_field"),
        ({"question_decomposition": [{"question": "?", "answer": "x", "paragraph_support_idx": 99}]}, "wrong_type"),
        ({"question_decomposition": ["x"]}, "wrong_type"),
        ({"answer": " ", "answer_aliases": []}, "no_answer"),
        ({"answer": None}, "missing_field"),
        ({"answerable": "yes"}, "wrong_type"),
        ({"paragraphs": [RECORD["paragraphs"][0]] * 2}, "wrong_type"),
        ({"question": ""}, "empty_question"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, changes: dict, reason: str) -> None:
    path = lines(tmp_path / "dev.jsonl", RECORD, changed(id="x", **changes))
    assert read("musique", path, fail_over=0.5).report.bad == {reason: 1}


def test_hops_of_real_questions_are_in_their_ids_and_each_has_a_paragraph(shared_data: Path) -> None:
    path = shared_data / "musique" / "musique_ans.jsonl.zst"
    if not path.exists():
        pytest.skip("musique_ans.jsonl.zst not present")
    questions = read("musique", path).questions
    assert all(question.hops == int(question.id[0]) == len(question.supporting_facts) for question in questions)
    assert all(len({support.paragraph for support in q.supporting_facts}) == q.hops for q in questions)
