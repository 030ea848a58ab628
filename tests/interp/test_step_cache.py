"""An entry is whole or not there; damage is found, named, set aside, and never read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.interp.engine.cache import MANIFEST, QUARANTINE, Cache
from mplat.interp.engine.key import Key
from mplat.runtime import NonDeterministicError, digest_of

COMPONENTS = {"step": {"name": "s", "version": 1}, "model": "m" * 64, "settings": {"k": 4}}
KEY = Key(digest_of(COMPONENTS), COMPONENTS)
TABLE = pa.table({"x": pa.array(range(5000), pa.int64())}, schema=pa.schema([pa.field("x", pa.int64())]))
TABLES = {"": TABLE, "second": TABLE.slice(0, 3)}


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> Cache:
    return Cache(tmp_path / "cache", warn=warnings.append)


def test_what_is_written_is_read(cache: Cache) -> None:
    assert cache.read("s", KEY.digest) is None
    written = cache.write("s", KEY, TABLES)
    read = cache.read("s", KEY.digest)
    assert read is not None
    assert {n: t.to_pydict() for n, t in read.items()} == {n: t.to_pydict() for n, t in TABLES.items()}
    assert all(written[name].equals(read[name], check_metadata=True) for name in TABLES)


def test_a_part_says_what_it_belongs_to(cache: Cache) -> None:
    cache.write("s", KEY, TABLES)
    folder = cache.folder / "s" / KEY.digest
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "part-00000.parquet", "part-second.parquet"]
    metadata = pq.read_schema(folder / "part-second.parquet").metadata
    assert metadata[b"mplat.key"].decode() == KEY.digest
    assert json.loads(metadata[b"mplat.key_inputs"]) == COMPONENTS
    (entry,) = cache.entries()
    assert (entry.step, entry.key, entry.components) == ("s", KEY.digest, COMPONENTS)
    assert entry.bytes == sum(path.stat().st_size for path in folder.glob("*.parquet"))
    assert cache.verify(entry) == []


def test_who_makes_an_entry_deletes_what_a_killed_run_was_writing_there(cache: Cache) -> None:
    cache.write("s", KEY, TABLES)
    left = cache.folder / "s" / KEY.digest / f".part-00000.parquet.{'0a' * 16}.part"
    left.write_bytes(b"half")
    with cache.alone("s", KEY.digest, lambda text: None):
        assert not left.exists() and cache.read("s", KEY.digest) is not None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _exchange(path: Path) -> None:
    """A whole Parquet file that is not the one written."""
    pq.write_table(TABLE.slice(1), path)


@pytest.mark.parametrize("damage", [_flip, _truncate, _empty, _exchange, Path.unlink])
def test_f18_f19_a_damaged_part_is_set_aside_and_made_again(cache: Cache, warnings: list[str], damage) -> None:
    cache.write("s", KEY, TABLES)
    path = cache.folder / "s" / KEY.digest / "part-second.parquet"
    whole = path.read_bytes()
    damage(path)
    (entry,) = cache.entries()
    assert len(cache.verify(entry)) == 1 and not warnings
    assert cache.read("s", KEY.digest) is None
    assert len(warnings) == 1 and str(path) in warnings[0] and "computed again" in warnings[0]
    quarantine = cache.folder / QUARANTINE
    assert [p.name.endswith(path.name) for p in quarantine.glob("*")] == ([] if damage is Path.unlink else [True])
    assert cache.entries() == []
    cache.write("s", KEY, TABLES)
    assert path.read_bytes() == whole
    assert cache.read("s", KEY.digest) is not None and len(warnings) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 99}', None], ids=["empty", "torn", "list", "later format", "of another entry"]
)
def test_a_damaged_manifest_is_set_aside(cache: Cache, warnings: list[str], text: str | None) -> None:
    cache.write("s", KEY, TABLES)
    path = cache.folder / "s" / KEY.digest / MANIFEST
    path.write_text(path.read_text().replace(KEY.digest, "0" * 64) if text is None else text)
    assert cache.read("s", KEY.digest) is None
    assert str(path) in warnings[0]
    cache.write("s", KEY, TABLES)
    assert cache.read("s", KEY.digest) is not None


def test_a_manifest_cannot_name_files_elsewhere(cache: Cache, warnings: list[str]) -> None:
    cache.write("s", KEY, TABLES)
    path = cache.folder / "s" / KEY.digest / MANIFEST
    path.write_text(path.read_text().replace("part-second.parquet", "../../../secret.parquet"))
    assert cache.find("s", KEY.digest) is None
    assert "outside of its folder" in warnings[0]


def test_parts_without_a_manifest_are_no_entry(cache: Cache) -> None:
    """What a writer leaves that died before its last file."""
    cache.write("s", KEY, TABLES)
    (cache.folder / "s" / KEY.digest / MANIFEST).unlink()
    assert cache.entries() == [] and cache.read("s", KEY.digest) is None
    cache.write("s", KEY, TABLES)
    with pytest.raises(NonDeterministicError, match="non-deterministic"):
        cache.write("s", KEY, {"": TABLE.slice(1)})


def test_removing_an_entry_leaves_the_others(cache: Cache) -> None:
    other = Key(digest_of({"step": 2}), {"step": 2})
    for key in (KEY, other):
        cache.write("s", key, TABLES)
    cache.remove("s", KEY.digest)
    cache.remove("s", KEY.digest)
    assert [entry.key for entry in cache.entries("s")] == [other.digest] and cache.entries("t") == []


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert Cache(tmp_path / "no").entries() == [] and not (tmp_path / "no").exists()
