"""HotpotQA: both schemas give the same questions, sentences stay as given, supports become positions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core.errors import InputError
from mplat.datasets.reading import read
from mplat.datasets.records import Paragraph, Question, Support


def record(question_id: str = "h1", **changes: object) -> dict:
    return {
        "_id": question_id,
        "question": "In which city was the painter of A born?",
        "answer": "Milan",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": [["B", 1], ["A", 0]],
        "context": [
            ["A", ["A is a picture by B.", " It is\u2028old."]],
            ["B", ["B paints.", " B was born in Milan."]],
            ["C", []],
        ],
        **changes,
    }


def to_hugging_face(original: dict) -> dict:
    """Pairs as columns, `_id` as `id`."""
    row = {key: value for key, value in original.items() if key not in ("_id", "supporting_facts", "context")}
    facts, context = original["supporting_facts"], original["context"]
    return {
        "id": original["_id"],
        **row,
        "supporting_facts": {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]},
        "context": {"title": [title for title, _ in context], "sentences": [sentences for _, sentences in context]},
    }


def from_question(question: Question) -> dict:
    """A question in the Hugging Face schema, made from nothing but its fields."""
    return {
        "id": question.id,
        "question": question.question,
        "answer": question.answers[0],
        **question.source(),
        "supporting_facts": {
            "title": [question.context[fact.paragraph].title for fact in question.supporting_facts],
            "sent_id": [fact.sentence for fact in question.supporting_facts],
        },
        "context": {
            "title": [paragraph.title for paragraph in question.context],
            "sentences": [list(paragraph.sentences) for paragraph in question.context],
        },
    }


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sentences_stay_as_given_and_supports_become_positions(tmp_path: Path) -> None:
    (question,) = read("hotpotqa", lines(tmp_path / "dev.jsonl", [record()])).questions
    assert (question.id, question.dataset, question.split, question.metric) == ("h1", "hotpotqa", "dev", "hotpotqa")
    assert question.answers == ("Milan",) and question.hops is None
    assert question.context[0] == Paragraph("A", ("A is a picture by B.", " It is\u2028old."))
    assert question.context[2] == Paragraph("C", ())
    assert question.supporting_facts == (Support(1, 1), Support(0, 0))


def test_layouts_of_both_schemas_give_the_same_questions(tmp_path: Path) -> None:
    originals = [record(), record("h2", answer="yes", supporting_facts=[["A", 0], ["B", 0], ["A", 1]])]
    rows = [to_hugging_face(original) for original in originals]
    expected = read("hotpotqa", lines(tmp_path / "a.jsonl", originals)).questions
    (tmp_path / "b.json").write_text(json.dumps(originals, indent=2), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    lines(tmp_path / "d.jsonl", rows)
    lines(tmp_path / "e.jsonl", [from_question(question) for question in expected])
    for name in ("b.json", "c.parquet", "d.jsonl", "e.jsonl"):
        assert read("hotpotqa", tmp_path / name).questions == expected, name


def test_supports_outside_the_context_are_left_out_and_counted(tmp_path: Path) -> None:
    facts = [["A", 0], ["A", 2], ["A", -1], ["Z", 0], ["B", 1], ["B", 1]]
    reading = read("hotpotqa", lines(tmp_path / "a.jsonl", [record(supporting_facts=facts)]))
    assert reading.questions[0].supporting_facts == (Support(0, 0), Support(1, 1))
    assert list(reading.report.notes.values()) == [3] and not reading.report.bad


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": None}, "missing_field"),
        ({"answer": "  "}, "no_answer"),
        ({"answer": ["Milan"]}, "wrong_type"),
        ({"question": ""}, "empty_question"),
        ({"supporting_facts": []}, "no_supporting_fact"),
        ({"supporting_facts": [["A", "0"]]}, "wrong_type"),
        ({"supporting_facts": [["A", True]]}, "wrong_type"),
        ({"supporting_facts": {"title": ["A"], "sent_id": []}}, "wrong_type"),
        ({"context": [["A", "one text"]]}, "wrong_type"),
        ({"context": [["A", ["x", None]]]}, "wrong_type"),
        ({"context": [["A"]]}, "wrong_type"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, changes: dict, reason: str) -> None:
    path = lines(tmp_path / "a.jsonl", [record("good"), record("bad", **changes)])
    reading = read("hotpotqa", path, fail_over=0.5)
    assert reading.report.bad == {reason: 1} and len(reading.questions) == 1
    with pytest.raises(InputError, match=f"1 of 2 HotpotQA records cannot be used .{reason} 1.*line 2"):
        read("hotpotqa", path)


def test_broken_lines_count_like_bad_records(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [record(str(n)) for n in range(8)])
    path.write_bytes(path.read_bytes() + b"{broken\n" + b"\xff\n")
    reading = read("hotpotqa", path, fail_over=0.2)
    assert reading.report.bad == {"broken_json": 1, "invalid_utf8": 1}
    assert reading.report.records == 10 and reading.report.questions == 8


def test_relatives_in_the_same_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2WikiMultihopQA"):
        read("hotpotqa", lines(tmp_path / "a.jsonl", [record(evidences=[])]))
    with pytest.raises(InputError, match="expected records of _id"):
        read("hotpotqa", lines(tmp_path / "a.jsonl", [{"id": "1", "question": "?", "golden_answers": ["x"]}]))


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_an_empty_or_cut_off_file_is_an_error(tmp_path: Path, keep: int) -> None:
    packed = zstandard.ZstdCompressor().compress(lines(tmp_path / "x.jsonl", [record()]).read_bytes())
    path = tmp_path / "hotpot.jsonl.zst"
    path.write_bytes(packed[:keep])
    with pytest.raises(InputError, match="empty" if keep == 0 else "cut off at byte"):
        read("hotpotqa", path)


def test_every_real_record_is_read_in_both_schemas(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "hotpotqa" / "hotpot_distractor.jsonl.zst"
    if not path.exists():
        pytest.skip("hotpot_distractor.jsonl.zst not present")
    reading = read("hotpotqa", path)
    assert len(reading.questions) == reading.report.records == 446
    assert not reading.report.bad and not reading.report.notes
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode()
    originals = [json.loads(line) for line in text.split("\n") if line]
    for question, original in zip(reading.questions, originals, strict=True):
        facts = [[question.context[fact.paragraph].title, fact.sentence] for fact in question.supporting_facts]
        assert facts == original["supporting_facts"]
        assert [[p.title, list(p.sentences)] for p in question.context] == original["context"]
        assert len({fact.paragraph for fact in question.supporting_facts}) == 2
    rows = lines(tmp_path / "rows.jsonl", [to_hugging_face(original) for original in originals])
    assert read("hotpotqa", rows).questions == reading.questions
    again = lines(tmp_path / "again.jsonl", [from_question(question) for question in reading.questions])
    assert read("hotpotqa", again).questions == reading.questions
