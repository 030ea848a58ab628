"""Documents in The Pile's format: every one is read as it is, or counted by the reason why it is not."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core.errors import InputError, UsageError
from mplat.datasets.readers.pile import Document, read

TEXTS = [f"Text {n}\u2028goes on,\u0085 and\x1d on.\r\nLine two \U0001f600\n" for n in range(12)]
SETS = ["Wikipedia (en)", "FreeLaw", "Ubuntu IRC"]
RECORDS = [{"text": text, "meta": {"pile_set_name": SETS[n % 3]}} for n, text in enumerate(TEXTS)]


def lines(records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


LINES = lines(RECORDS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", LINES.removesuffix(b"\n")),
        ("a.jsonl.zst", zst(LINES)),
        ("a.jsonl.zst", zst(LINES[:100]) + zst(LINES[100:333]) + zst(LINES[333:])),  # frames end inside lines
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.json", json.dumps(RECORDS).encode()),
    ],
)
def test_every_text_is_read_as_it_is(tmp_path, name, data):
    found = read(write(tmp_path / name, data))
    assert [d.text for d in found.documents] == TEXTS
    assert [d.set_name for d in found.documents] == [SETS[n % 3] for n in range(12)]
    assert found.report.records == 12 and not found.report.bad
    sizes = {name: sum(len(t.encode()) for t in TEXTS[n::3]) for n, name in enumerate(SETS)}
    assert {name: (c.documents, c.bytes) for name, c in found.report.sets.items()} == {s: (4, sizes[s]) for s in SETS}


def test_a_table_of_the_hub_is_read_too(tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "train.parquet")
    assert [d.text for d in read(tmp_path / "train.parquet").documents] == TEXTS


@pytest.mark.parametrize("cut", [1, 17, 60])
def test_a_packed_file_that_was_cut_off_is_an_error(tmp_path, cut):
    data = zst(LINES[:333]) + zst(LINES[333:])
    with pytest.raises(InputError, match="cut off at byte"):
        read(write(tmp_path / "a.jsonl.zst", data[:-cut]), fail_over=1.0)


def test_a_last_line_that_was_cut_off_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"cut off at byte \d+ in the middle of line 12"):
        read(write(tmp_path / "a.jsonl", LINES[:-9]), fail_over=1.0)


BAD = {
    "broken_json": b'{"text": "a" "meta": {}}',
    "wrong_type": b"[1, 2]",
    "missing_field": b'{"content": "no text"}',
    "empty_text": b'{"text": "", "meta": {"pile_set_name": "FreeLaw"}}',
    "bad_unicode": rb'{"text": "half \ud800", "meta": {"pile_set_name": "FreeLaw"}}',
    "invalid_utf8": b'{"text": "\xff", "meta": {"pile_set_name": "FreeLaw"}}',
    "duplicate_key": b'{"text": "a", "text": "b", "meta": {"pile_set_name": "FreeLaw"}}',
    "nul_byte": b'{"text": "a\0", "meta": {"pile_set_name": "FreeLaw"}}',
}


@pytest.mark.parametrize("reason", BAD)
def test_i2_a_bad_record_is_counted_by_its_reason_and_follows_the_tolerance(tmp_path, reason):
    path = write(tmp_path / "a.jsonl", BAD[reason] + b"\n" + LINES)
    found = read(path, fail_over=0.08)
    assert found.report.bad == {reason: 1} and [d.text for d in found.documents] == TEXTS
    assert found.documents[0].id == "a.jsonl:0000002", "the number of its line"
    with pytest.raises(InputError, match=rf"1 of 13 records.*\({reason} 1\).*line 1.*--fail-over 0.077"):
        read(path, fail_over=0.07)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": 5, "meta": {"pile_set_name": "FreeLaw"}}, "wrong_type"),
        ({"text": "a", "meta": {"pile_set_name": None}}, "wrong_type"),
        ({"meta": {"pile_set_name": "FreeLaw"}}, "missing_field"),
        ({"text": "a", "meta": {"pile_set_name": ""}}, "empty_text"),
    ],
)
def test_wrong_fields_have_their_reasons(tmp_path, record, reason):
    assert read(write(tmp_path / "a.jsonl", lines([record, *RECORDS])), fail_over=1.0).report.bad == {reason: 1}


OWN = [{"text": 'one, "two"\n'}, {"text": "three", "meta": {"url": "x"}}, {"text": "four \u2028 five"}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.zst"])
def test_texts_that_name_no_set_are_ones_own(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            table = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            table.writerows([["text"], *([record["text"]] for record in OWN)])
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{"text": record["text"]} for record in OWN]), path)
    else:
        write(path, json.dumps(OWN).encode() if kind == "json" else zst(lines(OWN)) if "zst" in kind else lines(OWN))
    found = read(path)
    assert [(d.text, d.set_name) for d in found.documents] == [(record["text"], "own") for record in OWN]


def test_a_text_file_is_one_document(tmp_path):
    found = read(write(tmp_path / "notes.txt", b"one\n\ntwo"))
    assert found.documents == (Document("notes.txt:0000001", "own", "one\n\ntwo"),)


def test_another_data_set_is_no_pile_and_nothing_is_tolerated_then(tmp_path):
    path = write(tmp_path / "a.jsonl", lines([{"id": 1, "question": "?"}]))
    with pytest.raises(InputError, match="no documents .*The Pile.*no 'text', only 'id', 'question'") as error:
        read(path, fail_over=1.0)
    assert "--fail-over" not in str(error.value)


def test_a_folder_is_all_its_files_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "x.jsonl.zst", zst(lines(RECORDS[4:])))
    write(tmp_path / "a.jsonl", lines(RECORDS[:4]))
    write(tmp_path / "SOURCE.md", b"# about")
    found = read(tmp_path)
    assert [d.text for d in found.documents] == TEXTS
    assert found.documents[4].id == "b/x.jsonl.zst:0000001"
    assert read([tmp_path / "a.jsonl", tmp_path / "b" / "x.jsonl.zst"]).documents[0] == found.documents[0]


def test_a_limit_takes_the_same_documents_whatever_their_order_and_a_larger_one_only_adds(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES)
    taken = [set(read(path, limit=limit, seed=3).documents) for limit in (1, 2, 4, 9)]
    assert [len(t) for t in taken] == [3, 6, 12, 12] and taken[0] < taken[1] < taken[2] == taken[3]
    assert taken[3] == set(read(path).documents)
    assert {d.set_name for d in taken[0]} == set(SETS)
    assert any(taken[1] != set(read(path, limit=2, seed=seed).documents) for seed in range(5))
    limited = read(path, limit=1)
    assert limited.report == read(path).report, "everything is counted all the same"
    assert list(limited.documents) == sorted(limited.documents, key=lambda d: d.id)


def test_bytes_are_those_of_utf8():
    assert Document("a", "s", "\u00e9\U0001f600x").n_bytes == 7


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: read(p / "absent.jsonl"), InputError, "there is no such file"),
        (lambda p: read(write(p / "notes.pdf", b"x")), InputError, "not a kind of data file"),
        (lambda p: read(p), InputError, "holds no data file"),
        (lambda p: read(write(p / "a.jsonl", b"\n\n")), InputError, "holds no record"),
        (lambda p: read(write(p / "a.jsonl", LINES), limit=0), UsageError, "at least 1"),
        (lambda p: read(write(p / "a.jsonl", LINES), fail_over=2), UsageError, "from 0 to 1"),
        (lambda p: read([write(p / "a.jsonl", LINES)] * 2), UsageError, "same name"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path)


def test_the_real_file_has_the_documents_and_bytes_that_its_source_says(shared_data):
    folder = shared_data / "pile"
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \|$", (folder / "SOURCE.md").read_text(), re.M)
    expected = {name: (int(n.replace(",", "")), int(size.replace(",", ""))) for name, n, size in rows}
    found = read(folder)
    assert {name: (c.documents, c.bytes) for name, c in found.report.sets.items()} == expected
    assert not found.report.bad and len(found.documents) == sum(n for n, _ in expected.values())
    assert len({d.id for d in found.documents}) == len(found.documents)
