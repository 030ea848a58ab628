"""DROP: typed answers in all schemas, and what two of them have lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from mplat.datasets.readers.drop import ANSWERS, Drop
from mplat.datasets.reading import read
from mplat.datasets.records import Date, Support, TypedAnswer

ROW = Drop.sample.rows[0]
OLD = ROW["passage"]


def lines(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def spans(split: str, *typed: tuple[str, str]) -> dict:
    answer = {"spans": [text for _, text in typed], "types": [kind for kind, _ in typed]}
    return {"section_id": "s", "query_id": split, "passage": OLD, "question": "?", "answers_spans": answer}


def test_the_answer_comes_first_then_the_validated_ones_each_with_its_type(tmp_path: Path) -> None:
    (question,) = read("drop", lines(tmp_path / "dev.jsonl", ROW)).questions
    assert question.typed_answers == (
        TypedAnswer(date=Date("8", "March", "2010")),
        TypedAnswer(number="3"),
        TypedAnswer(spans=("Rome", "3 dogs")),
    )
    assert question.gold() == ANSWERS
    assert question.answers == ("8 March 2010", "3", "Rome and 3 dogs")
    assert question.source() == {"section_id": "history_1"}
    assert question.supporting_facts == (Support(0, 0), Support(0, 2))  # Rome; Rome, 3 and 3 dogs


def test_blank_answers_are_no_answers_and_parts_may_be_missing(tmp_path: Path) -> None:
    blank = {"number": "", "date": {}, "spans": []}
    one = {**ROW, "answer": blank, "validated_answers": [{"number": None, "date": None, "spans": [" ", "Rome"]}, blank]}
    two = {**ROW, "query_id": "none", "answer": blank, "validated_answers": None}
    reading = read("drop", lines(tmp_path / "dev.jsonl", one, two), fail_over=0.5)
    assert reading.questions[0].typed_answers == (TypedAnswer(spans=(" ", "Rome")),)
    assert reading.report.bad == {"no_answer": 1}


def test_spans_of_one_training_answer_belong_together_and_validation_spans_may_not(tmp_path: Path) -> None:
    both = [("span", "Rome"), ("span", "3 dogs")]
    (train,) = read("drop", lines(tmp_path / "train.jsonl", spans("train", *both))).questions
    reading = read("drop", lines(tmp_path / "validation.jsonl", spans("dev", *both)))
    assert train.typed_answers == (TypedAnswer(spans=("Rome", "3 dogs")),)
    assert reading.questions[0].typed_answers == (TypedAnswer(spans=("Rome",)), TypedAnswer(spans=("3 dogs",)))
    assert sum(reading.report.notes.values()) == 1
    mixed = spans(
        "x", ("number", "3"), ("date", "8 March 2010"), ("date", "1950"), ("date", "March"), ("date", "c. 5 BC")
    )
    (question,) = read("drop", lines(tmp_path / "mixed.jsonl", mixed)).questions
    dates = [Date("8", "March", "2010"), Date(year="1950"), Date(month="March"), Date(year="c. 5 BC")]
    assert question.typed_answers == (TypedAnswer("3"), *(TypedAnswer(date=date) for date in dates))


def test_reference_texts_are_numbers_or_single_spans_and_get_an_id_each(tmp_path: Path) -> None:
    context = f"Passage: {OLD}\nQuestion: How many dogs?\nAnswer:"
    rows = [{"context": context, "completion": " 3", "ref_text": text} for text in ("  3|3 dogs|", "3", "3")]
    questions = read("drop", lines(tmp_path / "refs.jsonl", *rows)).questions
    assert [question.typed_answers for question in questions[:2]] == [
        (TypedAnswer(number="3"), TypedAnswer(spans=("3 dogs",))),
        (TypedAnswer(number="3"),),
    ]
    first = questions[0]
    assert first.question == "How many dogs?" and first.source_text() == OLD
    assert [question.id for question in questions] == [first.id, f"{first.id}-2", f"{first.id}-3"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": {"number": 3, "date": {}, "spans": []}}, "wrong_type"),
        ({"answer": {"number": "", "date": [], "spans": []}}, "wrong_type"),
        ({"answer": {"number": "", "date": {}, "spans": "Rome"}}, "wrong_type"),
        ({"answer": "3"}, "wrong_type"),
        ({"answer": None}, "missing_field"),
        ({"validated_answers": {"number": ["1"], "date": [], "spans": []}}, "wrong_type"),
        ({"passage": " "}, "missing_field"),
        ({"passage": None}, "missing_field"),
        ({"question": " "}, "empty_question"),
        ({"query_id": ""}, "missing_field"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, changes: dict, reason: str) -> None:
    path = lines(tmp_path / "dev.jsonl", ROW, {**ROW, "query_id": "x", **changes})
    assert read("drop", path, fail_over=0.5).report.bad == {reason: 1}


@pytest.mark.parametrize(
    "broken",
    [{"answers_spans": {"spans": ["a"], "types": []}}, {"answers_spans": {"spans": ["a"], "types": ["time"]}}],
)
def test_typed_texts_of_unknown_types_are_bad(tmp_path: Path, broken: dict) -> None:
    path = lines(tmp_path / "dev.jsonl", spans("good", ("number", "3")), {**spans("bad"), **broken})
    assert read("drop", path, fail_over=0.5).report.bad == {"wrong_type": 1}


def test_a_passage_that_is_none_costs_one_record(tmp_path: Path) -> None:
    value = {**Drop.sample.values[0], "bad": "text", "also bad": {"passage": "x", "qa_pairs": 3}}
    (tmp_path / "dev.json").write_text(json.dumps(value))
    reading = read("drop", tmp_path / "dev.json", fail_over=0.5)
    assert reading.report.bad == {"wrong_type": 2} and len(reading.questions) == 2


def test_real_answers_equal_the_official_objects(shared_data: Path) -> None:
    path = shared_data / "drop" / "drop_dataset_dev_sample.json.gz"
    if not path.exists():
        pytest.skip("drop_dataset_dev_sample.json.gz not present")
    originals = [
        qa for section in json.loads(gzip.decompress(path.read_bytes())).values() for qa in section["qa_pairs"]
    ]
    for question, original in zip(read("drop", path).questions, originals, strict=True):
        assert question.gold() == [original["answer"], *original["validated_answers"]]
