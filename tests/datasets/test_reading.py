"""Reading whatever is in a file: an account that adds up, or an InputError, and nothing else."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mplat.datasets.reading import read, split_of
from mplat.errors import InputError, UsageError

CONTEXT = "Rome is old. Milan is not."
ORIGINAL = {
    "squad": {
        "version": "1.1",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            {"id": f"s{n}", "question": "What?", "answers": [{"text": "Rome", "answer_start": 0}]}
                            for n in range(3)
                        ],
                    }
                ],
            }
        ],
    },
    "hotpotqa": {
        "_id": "h",
        "question": "?",
        "answer": "Rome",
        "supporting_facts": [["A", 0], ["B", 1]],
        "context": [["A", ["Rome.", " Old."]], ["B", ["Milan.", " Not."]]],
    },
    "triviaqa": {
        "Split": "dev",
        "Data": [
            {
                "QuestionId": "t",
                "Question": "?",
                "Answer": {"Value": "Rome", "Aliases": [], "NormalizedAliases": ["rome"]},
            }
        ],
    },
}
FLAT = {
    "squad": {"id": "s", "context": CONTEXT, "question": "?", "answers": {"text": ["Rome"], "answer_start": [0]}},
    "hotpotqa": {
        "id": "h",
        "question": "?",
        "answer": "Rome",
        "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A"], "sentences": [["Rome."]]},
    },
    "triviaqa": {"question_id": "t", "question": "?", "answer": {"value": "Rome", "normalized_aliases": ["rome"]}},
}
JUNK = [None, True, 0, -1, 3.5, 10**30, "", "x", "\ud800", [], {}, [[]], [None], {"text": 1}, {"title": []}, [["A", 0]]]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def damaged(value: Any, rnd: random.Random) -> Any:
    """A copy with one place replaced by something else or taken away."""
    value = copy.deepcopy(value)
    *inner, last = rnd.choice(list(places(value)))
    target = value
    for key in inner:
        target = target[key]
    if rnd.random() < 0.7:
        target[last] = rnd.choice(JUNK)
    else:
        del target[last]
    return value


@pytest.mark.parametrize("name", ["squad", "hotpotqa", "triviaqa"])
@pytest.mark.parametrize("schema", [ORIGINAL, FLAT], ids=["original", "hugging_face"])
def test_records_of_any_shape_are_accounted_for_or_refused(tmp_path: Path, name: str, schema: dict) -> None:
    rnd = random.Random(7)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(schema[name]), encoding="utf-8")
    assert read(name, path).report.bad == {}
    refused = 0
    for _ in range(250):
        path.write_text(json.dumps(damaged(schema[name], rnd)), encoding="utf-8")
        try:
            reading = read(name, path, fail_over=1.0)
        except InputError as error:
            assert "a.json" in str(error)
            refused += 1
        else:
            assert reading.report.records == len(reading.questions) + sum(reading.report.bad.values())
    assert refused < 250


@pytest.mark.parametrize("name", ["hotpot.jsonl", "hotpot.jsonl.gz"])
def test_damaged_bytes_never_give_fewer_questions_without_a_count(tmp_path: Path, name: str) -> None:
    rows = [{**ORIGINAL["hotpotqa"], "_id": str(n)} for n in range(20)]
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
    rows = [{**FLAT["triviaqa"], "question_id": str(n)} for n in range(99)] + [{"question_id": "bad", "question": "?"}]
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
        (tmp_path / f"{name}.json").write_text(json.dumps([{**FLAT["triviaqa"], "question_id": name}]))
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
