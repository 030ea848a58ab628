"""What every registered data set promises, tried on its own sample: both schemas give the same questions, a question
written as a row is read back equal, no other data set takes its files, and no damage goes unnoticed.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core.errors import InputError
from mplat.datasets.data_set import get, names
from mplat.datasets.reading import read, read_rows
from mplat.datasets.records import from_table, to_table
from mplat.datasets.sources.finding import find
from mplat.datasets.sources.hf_rows import SUFFIXES, convert, rows_by_file
from mplat.scoring import metrics

ALL = names()
JUNK = [None, True, 0, -1, 3.5, 10**30, "", "x", "\ud800", [], {}, [[]], [None], {"text": 1}, {"title": []}, [["A", 0]]]


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def store(folder: Path, name: str) -> Path:
    """The sample as an original file."""
    sample = get(name).sample
    path = folder / f"dev{sample.suffix}"
    as_document = sample.suffix == ".json" and len(sample.values) == 1
    path.write_bytes(json.dumps(sample.values[0], indent=1).encode() if as_document else lines(sample.values))
    return path


def arrow(path: Path, rows: list, stream: bool) -> Path:
    table = pa.Table.from_pylist(rows)
    with open(path, "wb") as file, (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path


@pytest.mark.parametrize("name", ALL)
def test_what_it_says_of_itself_is_there(name: str) -> None:
    data_set = get(name)
    assert data_set.title and data_set.licence and data_set.expects and data_set.categories
    assert data_set.metric in metrics.names()
    assert data_set.path_hint.search(f"{name}/dev.json"), "a damaged file under its name would go missing"


@pytest.mark.parametrize("name", ALL)
def test_both_schemas_give_the_same_questions_however_they_are_stored(name: str, tmp_path: Path) -> None:
    rows = get(name).sample.rows
    reading = read(name, store(tmp_path, name))
    assert reading.questions and not reading.report.bad
    assert len({question.id for question in reading.questions}) == len(reading.questions)
    (tmp_path / "rows-dev.jsonl").write_bytes(lines(rows))
    (tmp_path / "dev.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    (tmp_path / "dev.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines(rows)))
    (tmp_path / "dev_list.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    arrow(tmp_path / "cache-dev.arrow", rows, stream=True)
    arrow(tmp_path / "file-dev.arrow", rows, stream=False)
    for other in sorted(tmp_path.iterdir()):
        assert read(name, other).questions == reading.questions, other.name
        assert find([name], other)[name].files == (other,)
    assert read_rows(name, {"hub": ("dev", rows)}).questions == reading.questions


@pytest.mark.parametrize("name", ALL)
def test_no_other_data_set_takes_its_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(get(name).sample.rows))
    files = {tmp_path / "rows.jsonl", store(tmp_path, name)}
    assert {other: set(found.files) for other, found in find(ALL, tmp_path, whatever_is_there=True).items()} == {
        name: files
    }


@pytest.mark.parametrize("name", ALL)
def test_a_question_survives_its_row_and_the_table_of_questions_and_can_be_scored(name: str, tmp_path: Path) -> None:
    data_set = get(name)
    questions = read(name, store(tmp_path, name)).questions
    assert from_table(to_table(questions)) == list(questions)
    for question in questions:
        row = json.loads(json.dumps(data_set.row(question), allow_nan=False))
        (item,) = data_set.items(row)
        assert data_set.question(item, question.split, Counter()) == question
        if question.answers:
            score = metrics.score(question.metric, question.answers[0], question.gold())
            assert score.em == 1.0, "its own answer is right"


@pytest.mark.parametrize("name", ALL)
def test_converted_files_are_found_and_read_as_the_same_questions(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = store(tmp_path / "in", name)
    for suffix in SUFFIXES:
        out = tmp_path / f"out{suffix}"
        written = convert(name, path, out, suffix=suffix)
        assert [file.name for file in written] == [
            f"{stem}{suffix}" for stem in rows_by_file(get(name), read(name, path).questions)
        ]
        assert find([name], out)[name].files == written
        assert read(name, written).questions == read(name, path).questions
        before = [file.read_bytes() for file in written]
        assert convert(name, tmp_path / "in", out, suffix=suffix) == written
        assert [file.read_bytes() for file in written] == before


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


@pytest.mark.parametrize("name", ALL)
def test_records_of_any_shape_are_accounted_for_or_refused(name: str, tmp_path: Path) -> None:
    rnd = random.Random(7)
    path = tmp_path / f"{name}.json"
    for value in (get(name).sample.values[0], get(name).sample.rows[0]):
        path.write_text(json.dumps(value), encoding="utf-8")
        assert read(name, path).report.bad == {}
        for _ in range(100):
            path.write_text(json.dumps(damaged(value, rnd)), encoding="utf-8")
            try:
                reading = read(name, path, fail_over=1.0)
            except InputError as error:
                assert path.name in str(error)
            else:
                assert reading.report.records == len(reading.questions) + sum(reading.report.bad.values())
                to_table(reading.questions)
