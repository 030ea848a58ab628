"""Reading whatever is in a file: an account that adds up, or an InputError, and nothing else."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.datasets.data_set import get
from mplat.datasets.reading import read, split_of

HOTPOT = {
    "_id": "h",
    "question": "?",
    "answer": "Rome",
    "supporting_facts": [["A", 0], ["B", 1]],
    "context": [["A", ["Rome.", " Old."]], ["B", ["Milan.", " Not."]]],
}
TRIVIA = {"question_id": "t", "question": "?", "answer": {"value": "Rome", "normalized_aliases": ["rome"]}}


@pytest.mark.parametrize("name", ["drop", "hotpotqa", "musique", "natural_questions", "squad", "squad_v2", "triviaqa"])
def test_i2_bad_records_are_counted_by_reason_and_follow_the_tolerance(tmp_path: Path, name: str) -> None:
    """Whatever the data set, beside good rows there may be these, and each costs one record."""
    rows = [row for row in get(name).sample.rows if not isinstance(row.get("answers"), dict) or row["answers"]["text"]]
    (key,) = {"id", "query_id", "question_id"} & rows[0].keys()
    good = [{**rows[0], key: f"good {number}"} for number in range(9)]
    surrogate = json.dumps({**rows[0], key: "half \ud800"}).encode()
    encoded = json.dumps({**rows[0], key: "caf\u00e9"}, ensure_ascii=False).encode("latin-1", "replace")
    bad = [
        json.dumps({**rows[0], key: "good 3"}).encode(),
        surrogate,
        encoded,
        b'{"question": "cut in two',
        json.dumps({**rows[0], key: 7 if name != "natural_questions" else [7]}).encode(),
        json.dumps({name: value for name, value in rows[0].items() if name != key}).encode(),
        json.dumps("text").encode(),
    ]
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in good]
    path = tmp_path / f"{name}.jsonl"
    path.write_bytes(b"\n".join([*lines, *bad, lines[0].replace(b"good 0", b"good 9")]) + b"\n")
    with pytest.raises(InputError, match=r"7 of 17 .* --fail-over 0\.412"):
        read(name, path)
    reading = read(name, path, fail_over=0.412)
    assert [question.id for question in reading.questions] == [f"good {number}" for number in range(10)]
    expected = {"duplicate_id": 1, "bad_unicode": 1, "invalid_utf8": 1, "broken_json": 1, "wrong_type": 2}
    assert reading.report.bad == {**expected, "missing_field": 1}


@pytest.mark.parametrize("filler", [" word", "x. ", "\u4e2d\u3002", "\u2028"])
def test_a_context_of_a_hundred_thousand_tokens_is_too_long(tmp_path: Path, filler: str) -> None:
    row = {**get("drop").sample.rows[0], "passage": "Rome." + filler * 100_000}
    path = tmp_path / "drop.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**get("drop").sample.rows[1]}) + "\n", encoding="utf-8")
    reading = read("drop", path, fail_over=0.5)
    assert reading.report.bad == ({} if filler == "\u2028" else {"too_long": 1})


def test_a_document_with_bytes_that_are_no_text_loses_the_questions_they_are_in(tmp_path: Path) -> None:
    text = json.dumps(get("squad").sample.values[0], ensure_ascii=False).encode()
    path = tmp_path / "dev.json"
    path.write_bytes(text.replace(b'"Dogs?"', b'"Dogs\xff?"'))
    reading = read("squad", path, fail_over=0.5)
    assert reading.report.bad == {"bad_unicode": 1} and [q.id for q in reading.questions] == ["s1"]


@pytest.mark.parametrize("name", ["hotpot.jsonl", "hotpot.jsonl.gz"])
def test_damaged_bytes_never_give_fewer_questions_without_a_count(tmp_path: Path, name: str) -> None:
    rows = [{**HOTPOT, "_id": str(n)} for n in range(20)]
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()
    whole = gzip.compress(whole) if name.endswith(".gz") else whole
    rnd = random.Random(11)
    for _ in range(300):
        data = bytearray(whole)
        data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
        (tmp_path / name).write_bytes(bytes(data))
        try:
            report = read("hotpotqa", tmp_path / name, fail_over=1.0).report
        except InputError:
            continue
        lost = 20 - report.questions  # a newline that became something else joins two records into one broken line
        assert lost == 0 or sum(report.bad.values()) >= lost / 2


def test_the_tolerance_is_a_share_and_the_message_says_which_would_do(tmp_path: Path) -> None:
    rows = [{**TRIVIA, "question_id": str(n)} for n in range(99)] + [{"question_id": "bad", "question": "?"}]
    path = tmp_path / "trivia.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read("triviaqa", path).questions) == 99  # one in a hundred is within the default
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(InputError, match=r"1 of 99 TriviaQA records .*missing_field 1.*line 99.*--fail-over 0\.011"):
        read("triviaqa", path)
    assert len(read("triviaqa", path, fail_over=0.011).questions) == 98
    with pytest.raises(InputError):
        read("triviaqa", path, fail_over=0.0)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="from 0 to 1"):
            read("triviaqa", path, fail_over=wrong)


def test_files_are_read_in_the_order_given_and_reported_one_by_one(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**TRIVIA, "question_id": name}]))
    reading = read("triviaqa", [tmp_path / "b.json", tmp_path / "a.json"])
    assert [question.id for question in reading.questions] == ["b", "a"]
    assert [(file.path.name, file.schema, file.records) for file in reading.report.files] == [
        ("b.json", "Hugging Face", 1),
        ("a.json", "Hugging Face", 1),
    ]
    with pytest.raises(UsageError, match="no file"):
        read("triviaqa", [])
    with pytest.raises(InputError, match="is a folder; name a file"):
        read("triviaqa", tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-v1.1.json", "train"),
        ("dev_part_a.json.gz", "dev"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("hotpot_test_fullwiki.json", "test"),
        ("hotpot_distractor.jsonl.zst", ""),
        ("constraints.json", ""),
    ],
)
def test_the_split_is_a_whole_word_of_the_file_name(name: str, split: str) -> None:
    assert split_of(Path(name)) == split
