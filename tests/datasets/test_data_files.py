"""Opening, unpacking and splitting data files: nothing is lost without a word."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.sources import files
from mplat.datasets.sources.compressed import chunks
from mplat.datasets.sources.json_text import parse, parse_start

ROWS = [{"id": str(n), "text": f"line {n}\u2028still line {n}\u0085 \x1d"} for n in range(300)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def good(path: Path) -> list:
    found = list(files.values(path))
    assert all(not entry.problem for entry in found), found
    return [entry.value for entry in found]


def problems(path: Path) -> list[tuple[str, str]]:
    return [(entry.where, entry.problem) for entry in files.values(path) if entry.problem]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", zst(LINES)),
        ("a.ndjson", LINES.replace(b"\n", b"\r\n")),
        ("a.json", LINES),  # lines under the name of a document
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
        ("packed_without_saying_so.jsonl", zst(LINES)),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("a.jsonl", b"\n \n" + LINES.replace(b"\n", b"\n\n") + b"  "),
        ("a.jsonl", LINES.rstrip(b"\n")),
    ],
)
def test_every_packing_and_layout_gives_the_same_values_split_on_newline_only(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = write(tmp_path / name, data)
    assert good(path) == ROWS
    assert files.head(path) == ROWS


def test_i1_several_members_and_frames_are_read_as_one(tmp_path: Path) -> None:
    half = len(LINES) // 2
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert good(write(tmp_path / "a.jsonl.gz", gzip.compress(LINES[:half]) + gzip.compress(LINES[half:]))) == ROWS
    assert good(write(tmp_path / "a.jsonl.zst", zst(LINES[:half]) + skippable + zst(LINES[half:]))) == ROWS
    assert good(write(tmp_path / "b.jsonl.zst", skippable + zst(LINES))) == ROWS
    assert good(write(tmp_path / "b.jsonl.gz", gzip.compress(LINES) + b"\0" * 512)) == ROWS


def test_frames_without_a_size_and_with_a_long_window_are_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert good(write(tmp_path / "a.jsonl.zst", compressor.compress(LINES) + compressor.flush())) == ROWS


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("keep", [9, 40, -5, -1])
def test_i1_a_cut_off_packed_file_is_an_error_that_names_file_and_byte(tmp_path: Path, suffix: str, keep: int) -> None:
    packed = gzip.compress(LINES) if suffix == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
    path = write(tmp_path / f"a.jsonl.{suffix}", packed[:keep])
    with pytest.raises(InputError, match=rf"a\.jsonl\.{suffix}: cut off at byte {path.stat().st_size}"):
        list(files.values(path))


def test_i1_a_second_frame_that_is_cut_off_is_an_error_although_every_line_so_far_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.zst", zst(LINES) + zst(LINES)[:30])
    with pytest.raises(InputError, match="cut off at byte"):
        list(files.values(path))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_i1_something_else_behind_the_end_is_an_error(tmp_path: Path, suffix: str) -> None:
    packed = gzip.compress(LINES) if suffix == "gz" else zst(LINES)
    path = write(tmp_path / f"a.jsonl.{suffix}", packed + b"garbage behind the end")
    with pytest.raises(InputError, match=rf"near byte {len(packed)}.*behind a complete part"):
        list(files.values(path))


def test_a_flipped_bit_in_packed_data_is_an_error(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(InputError, match="damaged"):
        list(files.values(write(tmp_path / "a.jsonl.gz", bytes(packed))))


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.jsonl", b"", r"the file is empty \(0 bytes\)"),
        ("a.jsonl.gz", LINES, "named .gz, but the content is not gzip data"),
        ("a.jsonl.zst", gzip.compress(LINES), "named .zst, but the content is not zstandard data"),
        ("a.json", b"PK\x03\x04rest", "zip archive"),
        ("a.json", b"\xff\xfe{\x00}\x00", "UTF-16"),
        ("a.jsonl", b"\xff\xfe{\x00}\x00\n\x00", "UTF-16"),
        ("a.json", json.dumps(ROWS).encode()[:-40], r"cut off at byte \d+ in the middle of the JSON document"),
        ("a.json", b'[{"id": tru', "cut off at byte 11"),
        ("a.json", b'[{"id": 1} {"id": 2}]', "not a usable JSON document: line 1 column 12"),
        ("a.json", b'[{"id": 1, "id": 2}]', "the key 'id' twice"),
        ("a.json", b'[{"id": "\xff"', "cut off at byte 11"),
        ("a.jsonl", LINES[:-10], r"cut off at byte \d+ in the middle of line 300"),
        ("a.parquet", b"PAR1 not really PAR1", "not a readable Parquet file"),
    ],
)
def test_i1_i13_files_that_cannot_be_trusted_are_refused(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        list(files.values(write(tmp_path / name, data)))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(chunks(tmp_path / "missing.json"))
    with pytest.raises(InputError, match="is a folder"):
        list(chunks(tmp_path))


def test_i2_broken_lines_are_yielded_with_their_place_and_reason(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1}',
        b"not json",
        b'{"id": "a\0b"}',
        b'{"id": "\xff\xfe"}',
        b'\xef\xbb\xbf{"id": 2}',
        b'{"id": 1, "id": 2}',
        b'{"id": NaN}',
        b'{"id": 1',  # cut off, but not the last line
        b"[" * 100_000,
        b'{"id": 3}',
    ]
    path = write(tmp_path / "a.jsonl", b"\n".join(lines) + b"\n")
    assert problems(path) == [
        ("line 2", "broken_json"),
        ("line 3", "nul_byte"),
        ("line 4", "invalid_utf8"),
        ("line 5", "byte_order_mark"),
        ("line 6", "duplicate_key"),
        ("line 7", "broken_json"),
        ("line 8", "broken_json"),
        ("line 9", "broken_json"),
    ]
    assert [entry.value for entry in files.values(path) if not entry.problem] == [{"id": 1}, {"id": 3}]


def test_bytes_that_are_no_text_spoil_the_elements_they_are_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'[{"id": "\xff"}, {"id": "\xc3\xa9"}, {"deep": [{"\xfe": 1}]}]')
    assert problems(path) == [("record 1", "invalid_utf8"), ("record 3", "invalid_utf8")]
    assert [entry.value for entry in files.values(path) if not entry.problem] == [{"id": "\u00e9"}]
    (document,) = files.values(write(tmp_path / "b.json", b'{"id": "\xff", "text": "fine"}'))
    assert document.value == {"id": "\udcff", "text": "fine"}


def test_a_wrong_last_line_is_broken_not_cut_off(tmp_path: Path) -> None:
    assert problems(write(tmp_path / "a.jsonl", b'{"id": 1}\nnot json at all')) == [("line 2", "broken_json")]


def test_a_carriage_return_alone_does_not_end_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"id": 1}\r{"id": 2}\n{"id": 3}\r\n')
    assert problems(path) == [("line 1", "broken_json")]


@pytest.mark.parametrize("tail", [b"\n" + LINES, b""])
def test_i2_a_line_that_is_too_long_is_counted_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 19)
    path = write(tmp_path / "a.jsonl", LINES + b'{"id": "' + b"x" * (1 << 20) + b'"}' + tail)
    assert problems(path) == [("line 301", "line_too_long")]
    assert sum(not entry.problem for entry in files.values(path)) == (600 if tail else 300)


def test_parquet_rows_are_values_and_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=True, compression="none", use_dictionary=False)
    assert good(path) == ROWS and files.head(path) == ROWS
    data = bytearray(path.read_bytes())
    data[data.index(b"line 250")] ^= 1
    with pytest.raises(InputError, match="not a readable Parquet file"):
        list(files.values(write(path, bytes(data))))


def test_the_head_of_a_long_document_is_its_first_whole_elements(tmp_path: Path) -> None:
    many = [{"id": n, "text": 'x, \\" [' * 20} for n in range(20_000)]
    listed = files.head(write(tmp_path / "a.json", json.dumps(many).encode()))
    assert 300 < len(listed) <= files.HEAD_VALUES and listed == many[: len(listed)]
    (nested,) = files.head(write(tmp_path / "b.json", json.dumps({"data": many, "version": "1"}).encode()))
    assert "version" not in nested and nested["data"][:300] == many[:300]


@given(JSON_VALUES, st.integers(0, 200))
def test_any_start_of_a_document_gives_a_start_of_its_value(value: object, end: int) -> None:
    text = json.dumps([value, value]).encode()
    found = parse_start(text[:end])
    if end >= len(text):
        assert found == [value, value]
    elif found:
        assert isinstance(found, list) and len(found) <= 2
        assert found[0] == value or len(found) == 1


@given(JSON_VALUES)
def test_parsing_is_the_inverse_of_writing(value: object) -> None:
    assert parse(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


def test_the_suffix_behind_the_packing_decides_what_is_a_data_file() -> None:
    names = ["dev.json.gz", "a.JSONL.zst", "b.parquet", "README.md", "x.txt.gz", "c.ndjson"]
    assert [files.bare_suffix(Path(name)) for name in names] == [".json", ".jsonl", ".parquet", "", "", ".ndjson"]
