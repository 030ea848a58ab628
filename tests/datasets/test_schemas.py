"""Every registered data set: both schemas give the same questions, and a question written as a row is read back equal.

A new data set needs a sample in `data_set_samples`, and nothing here.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_set_samples import SAMPLES, Sample
from mplat.core.errors import UsageError
from mplat.datasets.data_set import get, names
from mplat.datasets.reading import read, read_rows
from mplat.datasets.records import from_table, to_table
from mplat.datasets.sources.finding import find
from mplat.datasets.sources.hf_rows import SUFFIXES, convert, rows_by_file

ALL = names()


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def store(folder: Path, sample: Sample) -> Path:
    path = folder / f"{sample.name}{sample.suffix}"
    document = json.dumps(sample.original[0], ensure_ascii=False, indent=1).encode()
    path.write_bytes(lines(sample.original) if sample.suffix == ".jsonl" else document)
    return path


def arrow(path: Path, rows: list, stream: bool) -> Path:
    table = pa.Table.from_pylist(rows)
    with open(path, "wb") as file, (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path


def test_every_data_set_has_a_sample() -> None:
    assert set(ALL) == SAMPLES.keys()


@pytest.mark.parametrize("name", ALL)
def test_both_schemas_give_the_same_questions_however_they_are_stored(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    path = store(tmp_path, sample)
    reading = read(name, path)
    assert reading.questions and not reading.report.bad
    assert len({question.id for question in reading.questions}) == len(reading.questions)
    rows = sample.rows
    (tmp_path / "dev.jsonl").write_bytes(lines(rows))
    (tmp_path / "dev.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    (tmp_path / "dev.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines(rows)))
    (tmp_path / "dev_list.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    arrow(tmp_path / "cache-dev.arrow", rows, stream=True)
    arrow(tmp_path / "file-dev.arrow", rows, stream=False)
    for other in sorted(tmp_path.iterdir()):
        again = read(name, other)
        assert again.questions == reading.questions, other.name
        assert again.report.files[0].schema.startswith("Hugging Face") or other == path or name == "musique"
        assert find([name], other)[name].files == (other,)
    assert read_rows(name, {"hub": ("dev", rows)}).questions == reading.questions


@pytest.mark.parametrize("name", ALL)
def test_the_sample_is_no_other_data_set(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(SAMPLES[name].rows))
    store(tmp_path, SAMPLES[name])
    for other in set(ALL) - {name}:
        with pytest.raises(Exception, match=f"no {get(other).title} file"):
            find([other], tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_a_question_survives_its_row_and_the_table_of_questions(name: str, tmp_path: Path) -> None:
    data_set = get(name)
    questions = read(name, store(tmp_path, SAMPLES[name])).questions
    assert from_table(to_table(questions)) == list(questions)
    for question in questions:
        row = json.loads(json.dumps(data_set.row(question), allow_nan=False))
        (item,) = data_set.items(row)
        assert data_set.question(item, question.split, Counter()) == question


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ALL)
def test_converted_files_are_found_and_read_as_the_same_questions(name: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = store(tmp_path / "in", SAMPLES[name])
    written = convert(name, path, tmp_path / "out", suffix=suffix)
    assert [file.name for file in written] == [
        f"{stem}{suffix}" for stem in rows_by_file(get(name), read(name, path).questions)
    ]
    assert find([name], tmp_path / "out")[name].files == written
    assert read(name, written).questions == read(name, path).questions
    before = [file.read_bytes() for file in written]
    assert convert(name, tmp_path / "in", tmp_path / "out", suffix=suffix) == written
    assert [file.read_bytes() for file in written] == before


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no kind of file '\.csv'"):
        convert("squad", tmp_path, tmp_path, suffix=".csv")


# What SOURCE.md beside the files says: questions by file. A long document has several.
COUNTS = {
    "squad": {"dev_part_a.json.gz": 4961, "train_part.json.gz": 11877},
    "squad_v2": {"dev_part_a.json.gz": 3782, "validation_hf.jsonl.zst": 536},
    "hotpotqa": {"hotpot_distractor.jsonl.zst": 446},
    "triviaqa": {
        "official_rc_wikipedia-dev.json": 2,
        "official_rc_wikipedia-train.json": 4,
        "triviaqa_open.jsonl.zst": 662,
    },
    "musique": {"musique_ans.jsonl.zst": 200},
    "drop": {
        "drop_contrast_sets.json.gz": 493,
        "drop_dataset_dev_sample.json.gz": 73,
        "drop_dataset_train_sample.json.gz": 281,
        "drop_dev_refs.jsonl.zst": 4908,
    },
    "natural_questions": {
        "efficientqa_dev.jsonl.zst": 1800,
        "nq_long_documents_leval.jsonl.zst": 59,
        "nq_open_dev.jsonl.zst": 2410,
        "nq_open_oracle.jsonl.zst": 1788,
        "nq_original_dev_1record.json.gz": 1,
        "nq_simplified_test_1record.json.gz": 1,
        "nq_simplified_train_1record.json.gz": 1,
    },
}


@pytest.mark.parametrize("name", ALL)
def test_every_real_record_of_every_file_is_read_and_survives_the_other_schema(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    found = find([name], shared_data)[name].files
    counts = {path.name: COUNTS[name][path.name] for path in found}
    if not counts:
        pytest.skip(f"no {name} file present")
    ids: Counter[str] = Counter()
    for path in found:
        once = read(name, path)
        assert len(once.questions) == once.report.records == counts[path.name] and not once.report.bad
        assert from_table(to_table(once.questions)) == list(once.questions)
        again = read(name, convert(name, path, tmp_path / path.name, suffix=".jsonl.zst"))
        order = {question.id: number for number, question in enumerate(once.questions)}
        assert sorted(again.questions, key=lambda question: order[question.id]) == list(once.questions)
        ids.update(list(order))
    assert ids.total() == len(ids) == sum(counts.values())
