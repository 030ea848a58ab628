"""A run folder from elsewhere cannot make a run write, empty, move or delete anything outside of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mplat.core.config import Config
from mplat.core.errors import InputError, UsageError
from mplat.core.folder_lock import alone_in
from mplat.core.inside import leads_down, leads_out, open_itself
from mplat.runtime import WorkerFactory, open_session, run_table
from mplat.runtime.stage import Stage
from mplat.train import checkpoint
from mplat.train.log import MetricsLog
from mplat.train.run_folder import STAGE as TRAIN
from shard_workers import SCHEMA, executions, items


class Settings(Config):
    """Of a run."""

    seed: int = 1


def make_table(folder: Path, *, log: Path | None = None, **changes: Any) -> pa.Table:
    """Forty rows in six parts."""
    factory = WorkerFactory("shard_workers:make", {"log": str(log)} if log else {})
    with open_session("none") as session:
        return run_table(
            "test", items(40), factory, session=session, out_dir=folder, batch_size=7, sort_by=["id"], schema=SCHEMA,
            **{"semantic_key": {"strength": 1.0}} | changes,
        )  # fmt: skip


DANCE = Stage("dance", results=("table.parquet", "page.html"), work=("work/*",), keeps=("data",))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with files that are to stay as they are, byte for byte and with nothing added."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    for name in ("precious", "part-00000-0123456789abcdef.parquet", ".x.part", "deep/notes"):
        (folder / name).write_bytes(name.encode() * 9 + b"\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def linked(folder: Path, name: str, to: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(to)
    return folder


@pytest.mark.parametrize("target", ["precious", "not there"])
def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, outside: Path, target: str) -> None:
    run = linked(tmp_path / "run", ".lock", outside / target)
    with pytest.raises(UsageError, match=r"\.lock: is a symbolic link"), alone_in(run):
        pass
    with pytest.raises(UsageError, match=r"\.lock: is a symbolic link"):
        make_table(run)


@pytest.mark.parametrize("target", ["precious", "not there"])
def test_a_ledger_that_is_a_link_is_refused(tmp_path: Path, outside: Path, target: str) -> None:
    run = linked(tmp_path / "run", "ledger.jsonl", outside / target)
    for fresh in (False, True):
        with pytest.raises((InputError, UsageError), match=r"ledger\.jsonl: is a symbolic link"):
            make_table(run, fresh=fresh)


def test_of_parts_that_are_links_only_the_links_are_removed(tmp_path: Path, outside: Path) -> None:
    run = linked(tmp_path / "run", "part-00000-0123456789abcdef.parquet", outside / "precious")
    linked(run, ".y.part", outside / "precious")
    linked(run, ".z.part", outside)
    assert make_table(run).num_rows == 40
    assert not [path for path in run.iterdir() if path.is_symlink()]


def test_a_damaged_part_is_not_moved_through_a_link(tmp_path: Path, outside: Path) -> None:
    run = tmp_path / "run"
    make_table(run)
    sorted(run.glob("part-*"))[0].write_bytes(b"damaged")
    linked(run, "damaged", outside)
    with pytest.raises(UsageError, match="damaged: is a symbolic link out of its folder"):
        make_table(run)


def test_a_part_behind_a_link_is_no_part_of_the_run(tmp_path: Path, outside: Path) -> None:
    run = tmp_path / "run"
    make_table(run)
    part = sorted(run.glob("part-*"))[0]
    part.unlink()
    part.symlink_to(outside / "precious")
    with pytest.raises(InputError, match="names a file outside of its folder"):
        make_table(run)


@pytest.mark.parametrize("name", ["work", "work/job", "table.parquet", "page.html", "data"])
def test_what_a_stage_writes_to_is_no_link_out_of_the_folder(tmp_path: Path, outside: Path, name: str) -> None:
    run = linked(tmp_path / "run", name, outside)
    (run / "run.json").write_text('{"command": "dance", "config": {"seed": 1}, "format": 1}')
    planned = DANCE.plan(Settings())
    for fresh in (False, True):
        with pytest.raises(UsageError, match=f"{name}: is a symbolic link out of the run folder"):
            with planned.begin(run, fresh=fresh):
                pass


def test_results_and_records_take_the_place_of_links(tmp_path: Path, outside: Path) -> None:
    run = linked(tmp_path / "run", "run.json", outside / "not there")
    linked(run, "table.parquet", run / "page.html")  # inside: allowed, and replaced
    with DANCE.plan(Settings()).begin(run) as begun:
        begun.table("table.parquet", pa.table({"a": [1]}))
    assert not any((run / name).is_symlink() for name in ("run.json", "table.parquet"))


def test_a_record_names_nothing_outside_to_be_deleted(tmp_path: Path, outside: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    names = ["../outside/precious", str(outside / "precious")]
    files = ", ".join(f'"{name}": "ab"' for name in names)
    (run / "run.json").write_text(f'{{"command": "dance", "config": {{"seed": 1}}, "format": 1, "files": {{{files}}}}}')
    with DANCE.plan(Settings()).begin(run, fresh=True):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "model", "log.jsonl", "tensorboard", "data", "loss_curve.png"])
def test_training_refuses_links_out_of_its_folder(tmp_path: Path, outside: Path, name: str) -> None:
    run = linked(tmp_path / "run", name, outside)
    with pytest.raises(UsageError, match="is a symbolic link out of the run folder"):
        TRAIN.refuse_links(run)


def test_a_training_log_is_not_emptied_through_a_link(tmp_path: Path, outside: Path) -> None:
    run = linked(tmp_path / "run", "log.jsonl", outside / "precious")
    linked(run, ".log.jsonl.part", outside / "precious")
    linked(run, "log.jsonl.damaged", outside / "precious")
    log = MetricsLog(run / "log.jsonl", resume_step=3)
    log.write("train", 4, {"loss": 1.0})
    log.close()
    assert not (run / "log.jsonl").is_symlink() and not (run / "log.jsonl.damaged").is_symlink()


def test_checkpoints_that_are_links_are_not_deleted_behind_them(tmp_path: Path, outside: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        linked(folder, f"step-{step:08d}", outside)
    linked(folder, f".step-00000001.{'0' * 32}.part", outside)
    checkpoint.sweep(folder)
    checkpoint.prune(folder, 1, set())
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]


def test_only_a_plain_file_is_opened_to_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: is no plain file"):
        open_itself(tmp_path / "pipe", os.O_WRONLY)
    with pytest.raises(UsageError, match="pipe: is no plain file"):
        open_itself(tmp_path / "pipe", os.O_RDWR)
    os.close(open_itself(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    assert (tmp_path / "file").read_bytes() == b""


def test_i12_which_names_lead_down(tmp_path: Path) -> None:
    down = ["a", "a b", ".a", "a..b"]
    assert all(leads_down(name) for name in down)
    assert leads_down("a/b", deep=True) and not leads_down("a/b")
    for name in ("", ".", "..", "/a", "a/../b", "a//b", "a/", "a\0", "a\\b", "a" * 256, "é" * 128, None, 3, ["a"]):
        assert not leads_down(name, deep=True), name
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    (tmp_path / "in").symlink_to(tmp_path / "file")
    assert [leads_out(tmp_path / name, tmp_path) for name in ("up", "up/x", "in", "file")] == [True, True, False, False]


def test_a_damaged_line_of_the_ledger_costs_no_work(tmp_path: Path) -> None:
    log, run, told = tmp_path / "log", tmp_path / "run", []
    whole = make_table(run, log=log)
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"sha256": "', b'"sha256": "0', 1)
    (run / "ledger.jsonl").write_bytes(b"".join(lines))
    assert make_table(run, log=log, progress=lambda p: told.append(p.note)).equals(whole)
    assert len(executions(log)) == 6, "the part was adopted, not made again"
    assert any("damaged in line 4" in note for note in told)


@pytest.mark.parametrize(
    "damage", [lambda line: line.replace(b'"plan": "', b'"plan": "0', 1), lambda line: b"\0" * 9 + b"\n"]
)
def test_a_damaged_first_line_is_known_from_the_parts(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    log, run, told = tmp_path / "log", tmp_path / "run", []
    whole = make_table(run, log=log)
    before = (run / "ledger.jsonl").read_bytes()
    first, *others = before.splitlines(keepends=True)
    (run / "ledger.jsonl").write_bytes(damage(first) + b"".join(others))
    assert make_table(run, log=log, progress=lambda p: told.append(p.note)).equals(whole)
    assert len(executions(log)) == 6 and (run / "ledger.jsonl").read_bytes() == before
    assert any("damaged in line 1" in note for note in told)


def test_a_damaged_first_line_over_parts_of_another_plan_deletes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_table(run)
    ledger = run / "ledger.jsonl"
    ledger.write_bytes(b"x" + ledger.read_bytes())
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match=r"ledger\.jsonl:1: not a line of this ledger"):
        make_table(run, semantic_key={"another": 1})
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    ledger.write_bytes(b'{"ledger": 99, "plan": "", "parts": {}}\n')
    with pytest.raises(InputError, match="ledger version 99, this mplat reads 1"):
        make_table(run)
