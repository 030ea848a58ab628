"""Prompts of one's own: the same from every kind of file, and refusals that say what a file should look like."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.datasets import facts
from mplat.datasets.readers.own_prompts import FORM, read_questions
from mplat.datasets.records import from_table, to_table
from mplat.eval.split import split
from mplat.interp.methods.facts_source import read_facts
from mplat.interp.methods.trace_config import TraceConfig

RECORDS = [
    {"prompt": "Ann lives in Rome, \"the city\".\nWhere does Ann live? She lives in", "answers": ["Rome", "Roma"],
     "category": "cities", "group": "ann", "evidence": ["Ann lives in Rome"], "subject": "Ann", "id": "one"},
    {"prompt": "Bo \u2028 owns a", "answers": ["dog"], "category": "pets", "group": "bo", "evidence": ["Bo"],
     "subject": "Bo", "id": "two"},
]  # fmt: skip


def write(folder: Path, name: str, records: list[dict]) -> Path:
    """The records in the form that the file's name says."""
    path = folder / name
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(records[0]), delimiter="," if name.endswith("csv") else "\t")
            table.writeheader()
            table.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in records)
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(json.dumps(records) if name.endswith(".json") else lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.ndjson", "a.jsonl.gz"])
def test_every_kind_of_file_holds_the_same_questions(name, tmp_path):
    found = read_questions(write(tmp_path, name, RECORDS))
    assert [q.prompt for q in found] == [r["prompt"] for r in RECORDS]
    assert [list(q.answers) for q in found] == [r["answers"] for r in RECORDS]
    assert [(q.id, q.category, q.group, q.origin) for q in found] == [
        ("one", "cities", "ann", "ann"), ("two", "pets", "bo", "bo"),
    ]  # fmt: skip
    assert found[0].source() == {"evidence": ["Ann lives in Rome"], "subject": "Ann"}
    assert found[0].evidence_distance == (len(', "the city". Where does Ann live? She lives in'.split()),)
    assert from_table(to_table(found)) == found


def test_lines_of_a_text_file_are_prompts_as_they_stand(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffOne is \r\n\n  Two\u2028is\nOne is \n".encode())
    found = read_questions(tmp_path / "p.txt")
    assert [q.prompt for q in found] == ["One is ", "  Two\u2028is", "One is "]
    assert len({q.id for q in found}) == 3 and found[2].id == f"{found[0].id}-2"


def test_an_answer_may_be_one_text_and_other_fields_are_kept(tmp_path):
    (found,) = read_questions(write(tmp_path, "a.jsonl", [{"prompt": "1 + 1 =", "answers": "2", "source": "me"}]))
    assert found.answers == ("2",) and found.source() == {"source": "me"} and found.gold() == ["2"]


def test_i15_a_table_of_questions_is_read_as_it_was_written(tmp_path):
    made = facts.prompts(per_level=2, seed=1)
    pq.write_table(to_table(made), tmp_path / "q.parquet")
    pq.write_table(to_table(made).drop_columns(["group"]), tmp_path / "older.parquet")
    assert read_questions(tmp_path / "q.parquet") == made
    assert read_questions(tmp_path / "older.parquet") == [dataclasses.replace(q, group="") for q in made]


def test_i15_columns_of_another_version_are_left_alone_and_a_number_too_large_is_refused(tmp_path):
    made = facts.prompts(per_level=1)
    table = to_table(made)
    pq.write_table(table.append_column("of_another_version", pa.array([1.5] * len(made))), tmp_path / "more.parquet")
    assert read_questions(tmp_path / "more.parquet") == made
    large = table.set_column(table.schema.get_field_index("level"), "level", pa.array([2**40] * len(made)))
    pq.write_table(large, tmp_path / "large.parquet")
    with pytest.raises(InputError, match=r"large\.parquet: a column does not have the question table's type"):
        read_questions(tmp_path / "large.parquet")


def test_a_group_falls_on_one_side_of_every_split(tmp_path):
    records = [{"prompt": f"{i} is", "group": f"g{i // 4}"} for i in range(40)]
    found = read_questions(write(tmp_path, "a.jsonl", records))
    for seed in range(5):
        development, test = split(found, seed=seed, share=0.5)
        assert not {q.group for q in development} & {q.group for q in test}
        assert development and test


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"text": "x"}\n', "a.jsonl, line 1: no 'prompt' here, only 'text'; a file of prompts is .txt"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": 3}\n', "line 2: 'prompt' is '3' (int) and must be a text"),
        ("a.jsonl", '{"prompt": "x", "answers": [1]}\n', "line 1: 'answers' is '1' (int) and must be a text"),
        ("a.jsonl", '{"prompt": "x", "anwers": "y"}\n', "unknown field 'anwers', did you mean 'answers'?"),
        ("a.jsonl", '{"prompt": "x", "evidence": "y"}\n', "line 1: 'y' is not in the prompt word for word"),
        ("a.jsonl", '{"prompt": " "}\n', "line 1: 'prompt' is blank"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y",}\n', "line 2"),
        ("a.jsonl", "", "the file is empty"),
        ("a.txt", "\n \n", "holds no question"),
        ("a.txt", b"\xff\xfea\x00", "not UTF-8 at byte 0"),
        ("a.csv", "prompt,prompt\na,b\n", "the first line must name every column, each once"),
        ("a.csv", "prompt,answers\na,b,c\n", "line 2: 3 cells where the first line names 2 columns"),
        ("a.csv", 'prompt\n"a\n', "not well-formed"),
        ("a.csv", "question,answer\na,b\n", "line 2: no 'prompt' here, only 'question', 'answer'"),
        ("a.parquet", "no table", "not a whole Parquet file"),
        ("a.xlsx", "", "not a kind of file that can be read (.xlsx); a file of prompts is .txt"),
        ("a.json", '{"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "c", "qas": []}]}]}',
         "this is a file of SQuAD v1.1, of which `mplat classify --datasets squad` makes questions"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_with_its_place_and_the_form(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_questions(tmp_path / name)
    assert told in str(caught.value) and str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.jsonl", "."])
def test_what_is_no_file_is_refused_with_the_form(name, tmp_path):
    with pytest.raises(InputError) as caught:
        read_questions(tmp_path / name)
    assert FORM in str(caught.value)


def test_what_tracing_corrupts_is_the_subject_else_the_evidence_else_the_whole_prompt(tmp_path):
    records = [
        {"prompt": "Ann is in Rome, so Ann is in", "answers": "Rome", "subject": "Ann", "evidence": "Rome"},
        {"prompt": "It is in Rome, that is in", "answers": ["Italy", "Europe"], "evidence": ["Rome"], "category": "c"},
        {"prompt": "One, two,  ", "answers": ["three"]},
    ]
    path = write(tmp_path, "a.jsonl", records)
    found = read_facts(TraceConfig(facts=str(path)))
    assert [(p.subject, p.subject_span, p.answer, p.relation) for p in found.prompts] == [
        ("Ann", (0, 3), "Rome", ""), ("Rome", (9, 13), "Italy", "c"), ("One, two,", (0, 9), "three", ""),
    ]  # fmt: skip
    assert found.notes == (f"{path}: 1 prompts name no `subject` and no `evidence`; all of their words are corrupted",)
    with pytest.raises(InputError, match="has no answer, and tracing needs one"):
        read_facts(TraceConfig(facts=str(write(tmp_path, "b.csv", [{"prompt": "One, two"}]))))
