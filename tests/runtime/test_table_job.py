"""A table is the same, byte for byte, however often its making was interrupted, damaged and continued."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mplat.core.errors import ClusterError, UsageError
from mplat.core.whole_files import read_table, table_bytes
from mplat.runtime import (
    NonDeterministicError,
    Progress,
    WorkerError,
    WorkerFactory,
    open_session,
    read_ledger,
    run_table,
)
from shard_workers import SCHEMA, executions, items

ITEMS = items(40)


def make_table(folder: Path, *, function: str = "make", log: Path | None = None, **changes: Any) -> pa.Table:
    arguments: dict[str, Any] = {
        "out_dir": folder,
        "batch_size": 7,
        "sort_by": ["id"],
        "schema": SCHEMA,
        "semantic_key": {"strength": 1.0},
        **changes,
    }
    factory = WorkerFactory(f"shard_workers:{function}", {"log": str(log)} if log else {})
    with open_session("none") as session:
        return run_table("test", arguments.pop("items", ITEMS), factory, session=session, **arguments)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the table of one uninterrupted run."""
    return table_bytes(make_table(tmp_path_factory.mktemp("right")))


def test_the_rows_are_the_workers_in_sorted_order(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.column("id").to_pylist() == sorted(item["id"] for item in ITEMS)
    expected = {}
    for start in range(0, 40, 7):
        batch = ITEMS[start : start + 7]
        total = sum(item["x"] / 3.0 for item in batch)
        expected |= {item["id"]: item["x"] / 7.0 + total * 1e-3 for item in batch}
    found = dict(zip(table.column("id").to_pylist(), table.column("value").to_pylist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-14)


def test_another_run_of_a_finished_table_computes_nothing(tmp_path: Path, right: bytes) -> None:
    log = tmp_path / "log"
    first = make_table(tmp_path / "out", log=log)
    again = make_table(tmp_path / "out", log=log)
    assert table_bytes(first) == table_bytes(again) == right
    assert len(executions(log)) == 6


def test_progress_counts_shards_and_rows_and_says_what_was_resumed(tmp_path: Path) -> None:
    told: list[Progress] = []
    make_table(tmp_path, progress=told.append)
    assert [(p.shards_done, p.rows_done) for p in told] == [(i, min(7 * i, 40)) for i in range(7)]
    assert {(p.shards, p.rows, p.resumed_shards, p.note) for p in told} == {(6, 40, 0, "")}
    told.clear()
    make_table(tmp_path, progress=told.append)
    assert [(p.shards_done, p.rows_done, p.resumed_shards) for p in told] == [(6, 40, 6)]


def test_f5_a_killed_driver_leaves_what_it_had_and_the_next_one_does_only_the_rest(
    tmp_path: Path, right: bytes
) -> None:
    log, folder = tmp_path / "log", tmp_path / "out"
    program = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent / "support")!r}]
from test_table_job import make_table
def die_at_three(progress):
    if progress.shards_done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
make_table(Path({str(folder)!r}), log=Path({str(log)!r}), progress=die_at_three)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert len(read_ledger(folder / "ledger.jsonl").entries) == 3
    (folder / ".part-00004.parquet.0123.part").write_bytes(b"what a dead writer leaves")
    assert table_bytes(make_table(folder, log=log)) == right
    begun = executions(log)
    assert len(begun) == len(set(begun)) == 6, "no shard was begun twice"
    assert not list(folder.glob(".*.part"))


def test_f16_a_part_whose_ledger_line_was_never_written_is_adopted(tmp_path: Path, right: bytes) -> None:
    log, folder = tmp_path / "log", tmp_path / "out"
    make_table(folder, log=log)
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    assert table_bytes(make_table(folder, log=log)) == right
    assert len(executions(log)) == 6
    assert sorted(e.attempts for e in read_ledger(ledger).entries.values()) == [0, 1, 1, 1, 1, 1]


def flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 4]) + data[201:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[:300], lambda data: b""], ids=["bit", "cut", "empty"])
def test_f18_f19_a_damaged_part_is_set_aside_and_made_again(
    tmp_path: Path, right: bytes, damage: Callable[[bytes], bytes]
) -> None:
    log, folder, told = tmp_path / "log", tmp_path / "out", []
    make_table(folder, log=log)
    part = sorted(folder.glob("part-*"))[2]
    part.write_bytes(damage(part.read_bytes()))
    table = make_table(folder, log=log, progress=lambda p: told.append(p.note))
    assert table_bytes(table) == right
    assert executions(log).count(executions(log)[2]) == 2 and len(executions(log)) == 7
    assert any(str(part) in note and "computed again" in note for note in told)
    assert not any("delete" in note for note in told), "nothing is left for the user to do"
    assert [p.name for p in (folder / "damaged").iterdir()] == [part.name] and part.exists()


def test_a_part_that_is_gone_is_made_again(tmp_path: Path, right: bytes) -> None:
    make_table(tmp_path)
    sorted(tmp_path.glob("part-*"))[0].unlink()
    assert table_bytes(make_table(tmp_path)) == right


def test_other_settings_are_refused_and_fresh_starts_over(tmp_path: Path, right: bytes) -> None:
    log = tmp_path / "log"
    make_table(tmp_path / "out", log=log, semantic_key={"strength": 2.0})
    with pytest.raises(UsageError, match=r"key\.strength \(2\.0 -> 1\.0\) differs; use --fresh"):
        make_table(tmp_path / "out", log=log)
    assert table_bytes(make_table(tmp_path / "out", log=log, fresh=True)) == right
    assert len(list((tmp_path / "out").glob("part-*"))) == 6 and len(executions(log)) == 12


def test_f11_a_step_that_gives_two_answers_is_an_error_with_both_digests(tmp_path: Path) -> None:
    make_table(tmp_path, function="make_random", log=tmp_path / "log")
    part = sorted(tmp_path.glob("part-*"))[0]
    part.unlink()
    with pytest.raises(NonDeterministicError, match=r"non-deterministic step.*sha256 [0-9a-f]{64}.*[0-9a-f]{64}"):
        make_table(tmp_path, function="make_random", log=tmp_path / "log")


def test_lengths_put_like_items_into_one_batch(tmp_path: Path) -> None:
    lengths = [item["length"] for item in ITEMS]
    make_table(tmp_path, lengths=lengths)
    by_id = {item["id"]: item["length"] for item in ITEMS}
    spans = []
    for path in sorted(tmp_path.glob("part-*")):
        found = [by_id[i] for i in pa.parquet.read_table(path).column("id").to_pylist()]
        spans.append((max(found), min(found)))
    assert [edge for span in spans for edge in span] == sorted((e for s in spans for e in s), reverse=True)


def test_no_items_make_an_empty_table(tmp_path: Path) -> None:
    table = make_table(tmp_path, items=[])
    assert table.num_rows == 0 and table.schema.equals(SCHEMA)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other_columns", r"other columns: value \(double -> float\)"),
        ("fewer_rows", "6 rows for 7 items"),
        ("other_ids", "rows of other items, for one id 'nobody'"),
        ("no_table", "TypeError: the worker returned list"),
    ],
)
def test_an_answer_that_does_not_fit_its_items_ends_the_run(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        make_table(tmp_path, function=f"make_{fault}")
    assert not list(tmp_path.glob("part-*"))


def test_what_cannot_be_sorted_by_or_has_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot sort by level"):
        make_table(tmp_path, sort_by=["level"])
    with pytest.raises(UsageError, match="3 lengths for 40 items"):
        make_table(tmp_path, lengths=[1, 2, 3])


@pytest.mark.parametrize("room", range(1, 20, 3))  # the first one is the lock, without which nothing begins
def test_f15_a_run_whose_disk_was_full_has_whole_parts_alone_and_goes_on_once_there_is_space(
    tmp_path: Path, right: bytes, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    log, folder, synced = tmp_path / "log", tmp_path / "out", itertools.count()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(synced) >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(ClusterError, match="No space left on device.*run the same command again") as caught:
            make_table(folder, log=log)
    assert caught.value.exit_code == 4
    assert not list(folder.glob(".*.part"))
    assert all(read_table(path).num_rows in (5, 7) for path in folder.glob("part-*"))
    assert table_bytes(make_table(folder, log=log)) == right
    assert len(executions(log)) <= 7, "at most the one that could not be written is computed again"


def test_f21_neither_the_times_of_files_nor_the_clock_decide_anything(
    tmp_path: Path, right: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards = itertools.count(2e9, -1e6)
    monkeypatch.setattr("mplat.runtime.ledger.time.time", lambda: next(backwards))

    def after_three(progress: Progress) -> None:
        if progress.shards_done == 3:
            raise KeyboardInterrupt

    log, folder = tmp_path / "log", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make_table(folder, log=log, progress=after_three)
    for seconds in (0, 4e9):  # all the same, and in the future
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (seconds, seconds))
        assert table_bytes(make_table(folder, log=log)) == right
    assert len(executions(log)) == 6
    times = [entry.at for entry in read_ledger(folder / "ledger.jsonl").entries.values()]
    assert times == sorted(times, reverse=True), "the clock did run backwards"
