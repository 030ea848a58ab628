"""A published file is whole, equal tables have equal bytes, damage is noticed, nothing is overwritten in silence."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core import whole_files as storage
from mplat.core.errors import ClusterError, InputError, UsageError
from mplat.core.whole_files import (
    NonDeterministicError,
    as_read,
    copy_files,
    publish_bytes,
    publish_json,
    publish_table,
    read_table,
    replace_table,
    table_bytes,
)


def some_table(rows: int = 500, shift: float = 0.0) -> pa.Table:
    return pa.table({"id": [f"q{i}" for i in range(rows)], "value": [math.sin(i) + shift for i in range(rows)]})


def test_what_is_published_reads_back_and_has_the_stated_digest(tmp_path: Path) -> None:
    done = publish_table(some_table(), tmp_path / "new" / "a.parquet")
    data = done.path.read_bytes()
    assert (done.sha256, done.bytes, done.rows) == (hashlib.sha256(data).hexdigest(), len(data), 500)
    assert read_table(done.path, done.sha256).equals(some_table())
    assert os.listdir(done.path.parent) == ["a.parquet"], "no temporary file stays"


@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_equal_tables_have_equal_bytes_whatever_their_chunks(cuts: list[int]) -> None:
    table = some_table(60)
    edges = [0, *sorted(cuts), 60]
    pieces = pa.concat_tables([table.slice(a, b - a) for a, b in zip(edges, edges[1:], strict=False)])
    assert table_bytes(pieces) == table_bytes(table)


def test_a_table_that_is_not_compressed_has_its_values_in_the_file_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"tokens": [b"ab" * 5000, b"cd" * 5000]})
    plain = table_bytes(table, compressed=False)
    assert b"ab" * 5000 in plain and len(table_bytes(table)) < 2000
    (tmp_path / "a.parquet").write_bytes(plain)
    assert read_table(tmp_path / "a.parquet").equals(table)


def test_the_first_writer_wins_and_an_equal_second_one_is_no_error(tmp_path: Path) -> None:
    first = publish_table(some_table(), tmp_path / "a.parquet")
    node = first.path.stat().st_ino
    assert publish_table(some_table(), tmp_path / "a.parquet") == first
    assert first.path.stat().st_ino == node, "the file was not written again"


def test_f11_other_bytes_for_the_same_name_are_an_error_with_both_digests(tmp_path: Path) -> None:
    first = publish_table(some_table(), tmp_path / "a.parquet")
    other = hashlib.sha256(table_bytes(some_table(shift=1e-16 + 1e-15))).hexdigest()
    with pytest.raises(NonDeterministicError, match="non-deterministic step") as caught:
        publish_table(some_table(shift=1e-16 + 1e-15), tmp_path / "a.parquet")
    assert first.sha256 in str(caught.value) and other in str(caught.value)
    assert caught.value.exit_code == 1
    assert read_table(first.path, first.sha256).equals(some_table()), "the first file is untouched"
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_it_works_the_same_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    publish_table(some_table(), tmp_path / "a.parquet")
    publish_table(some_table(), tmp_path / "a.parquet")
    with pytest.raises(NonDeterministicError):
        publish_table(some_table(shift=1.0), tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_f18_any_flipped_bit_is_caught_by_the_digest_and_in_the_data_by_the_page_checksums(tmp_path: Path) -> None:
    done = publish_table(some_table(), tmp_path / "a.parquet")
    whole = done.path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    caught_without_digest = 0
    places = range(4, len(whole) - footer, 97)
    for at in places:
        broken = bytearray(whole)
        broken[at] ^= 1 << (at % 8)
        done.path.write_bytes(broken)
        with pytest.raises(InputError, match=r"a\.parquet"):
            read_table(done.path, done.sha256)
        try:
            assert read_table(done.path).equals(some_table()), "a wrong number was read without an error"
        except InputError:
            caught_without_digest += 1
    assert caught_without_digest > 0.9 * len(places)  # the rest are unused header fields


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_f19_a_truncated_or_empty_file_is_an_input_error_that_names_it(tmp_path: Path, keep: float) -> None:
    done = publish_table(some_table(), tmp_path / "a.parquet")
    whole = done.path.read_bytes()
    done.path.write_bytes(whole[: int(keep * len(whole))] if 0 < keep < 1 else whole[: int(keep)])
    with pytest.raises(InputError, match=r"a\.parquet") as caught:
        read_table(done.path)
    assert caught.value.exit_code == 3 and "run the step" in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "a.parquet")


def test_a_damaged_file_under_the_name_is_reported_as_damaged_not_as_another_answer(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        publish_table(some_table(), tmp_path / "a.parquet")


def test_f15_a_full_disk_leaves_no_file_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(ClusterError, match="No space left") as caught:
        publish_table(some_table(), tmp_path / "a.parquet")
    assert caught.value.exit_code == 4
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_expected_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="--out"):
        publish_json({}, tmp_path / "taken" / "run.json")


def test_replacing_swaps_the_whole_file(tmp_path: Path) -> None:
    replace_table(some_table(), tmp_path / "a.parquet")
    replace_table(some_table(7), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").num_rows == 7
    publish_bytes(b"one", tmp_path / "b")
    publish_bytes(b"two", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"two"


def test_json_is_strict_and_readable(tmp_path: Path) -> None:
    publish_json({"name": "größe", "n": 1}, tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text()) == {"name": "größe", "n": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        publish_json({"x": math.nan}, tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text())["n"] == 1, "the old file stays"


def test_spaces_and_long_and_foreign_names_are_fine(tmp_path: Path) -> None:
    name = "ein Ergebnis für später " + "x" * 200 + ".parquet"
    assert publish_table(some_table(3), tmp_path / "o u t" / name).path.name == name


def test_copies_are_equal_and_of_their_own(tmp_path: Path) -> None:
    first = publish_table(some_table(), tmp_path / "cache" / "a.parquet")
    second = publish_bytes(b"tensors", tmp_path / "cache" / "b.safetensors")
    new = tmp_path / "out"
    copy_files({new / "x.parquet": first, new / "y.safetensors": second})
    assert sorted(os.listdir(new)) == ["x.parquet", "y.safetensors"]
    assert (new / "x.parquet").read_bytes() == first.path.read_bytes() and (
        new / "y.safetensors"
    ).read_bytes() == b"tensors"
    (new / "x.parquet").write_bytes(b"edited")
    assert read_table(first.path, first.sha256).equals(some_table()), "the copy is no link"


def test_a_file_that_has_changed_is_not_copied_and_no_other_gets_its_name(tmp_path: Path) -> None:
    first = publish_table(some_table(), tmp_path / "cache" / "a.parquet")
    second = publish_table(some_table(7), tmp_path / "cache" / "b.parquet")
    second.path.write_bytes(second.path.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"b\.parquet: its copy has sha256"):
        copy_files({tmp_path / "out" / "a.parquet": first, tmp_path / "out" / "b.parquet": second})
    second.path.unlink()
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read"):
        copy_files({tmp_path / "out" / "a.parquet": first, tmp_path / "out" / "b.parquet": second})
    assert os.listdir(tmp_path / "out") == []


def test_a_table_as_it_is_read_has_the_same_bytes_when_it_is_written_again(tmp_path: Path) -> None:
    """Of lists, whose items have another name in Parquet than in Arrow."""
    nested = pa.table({"id": ["a", "b"], "values": pa.array([[1.0], None], pa.list_(pa.float32()))})
    first = publish_table(as_read(nested), tmp_path / "a.parquet")
    assert table_bytes(read_table(first.path)) == first.path.read_bytes() != table_bytes(nested)
    assert read_table(first.path).equals(read_table(publish_table(nested, tmp_path / "b.parquet").path))
