"""The ledger survives any death of its writer, belongs to one plan, and has one writer at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mplat.core import folder_lock as lock_module
from mplat.core.errors import InputError, UsageError
from mplat.runtime import Entry, Ledger, plan_digest, plan_shards, read_ledger

SHARDS = plan_shards(4, 2)


def plan(strength: int = 1):
    return plan_digest("t", SHARDS, [{"id": i} for i in range(4)], schema="s", semantic_key={"strength": strength})


def entry(index: int, digest: str = "ab") -> Entry:
    return Entry(SHARDS[index].key, index, f"part-{index}", digest, 2, 1, False, 0.5, 1.0)


def written(folder: Path) -> Path:
    with Ledger(folder, plan()) as ledger:
        ledger.append(entry(0))
        ledger.append(entry(1))
    return folder / "ledger.jsonl"


def test_entries_are_found_again_and_the_first_line_names_the_plan(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = read_ledger(path)
    assert content.entries == {SHARDS[0].key: entry(0), SHARDS[1].key: entry(1)}
    assert content.header is not None and content.header["plan"] == plan().digest
    with Ledger(tmp_path, plan()) as ledger:
        assert ledger.entries == content.entries


def test_f10_the_same_entry_twice_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with Ledger(tmp_path, plan()) as ledger:
        ledger.append(entry(1))
    assert path.read_bytes() == before


def test_f17_wherever_the_last_line_is_torn_it_alone_is_lost_and_the_next_one_is_whole(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        (tmp_path / "ledger.jsonl").write_bytes(whole[:cut])
        assert list(read_ledger(tmp_path / "ledger.jsonl").entries) == [SHARDS[0].key]
        with Ledger(tmp_path, plan()) as ledger:
            ledger.append(entry(1))
        assert (tmp_path / "ledger.jsonl").read_bytes() == whole


def test_a_torn_header_is_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"ledger": 1, "pl')
    with Ledger(tmp_path, plan()) as ledger:
        assert ledger.entries == {}
    assert read_ledger(tmp_path / "ledger.jsonl").header is not None


@pytest.mark.parametrize("place", ["cut", "digit", "name", "checksum"])
def test_a_damaged_line_is_dropped_and_said_and_the_others_stay(tmp_path: Path, place: str) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "cut": lines[1][:9] + b"\n",
        "digit": lines[1].replace(b'"rows": 2', b'"rows": 3'),
        "name": lines[1].replace(b'"part-0"', b'"part-1"'),
        "checksum": lines[1].replace(b'"check"', b'"chock"'),
    }[place]
    assert damaged != lines[1]
    path.write_bytes(lines[0] + damaged + lines[2])
    content = read_ledger(path)
    assert (list(content.entries), content.damaged) == ([SHARDS[1].key], (2,))
    with Ledger(tmp_path, plan()) as ledger:
        assert ledger.damaged == (2,)
        ledger.append(entry(0))
    assert path.read_bytes() == lines[0] + lines[2] + lines[1]
    assert read_ledger(path).damaged == ()


def test_a_damaged_first_line_is_an_error_where_nothing_else_says_whose_results_these_are(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"plan": "', b'"plan": "0', 1))
    with pytest.raises(InputError, match=r"ledger\.jsonl:1: not a line of this ledger \(its checksum"):
        Ledger(tmp_path, plan())


def test_lines_of_earlier_versions_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "check"}) + "\n" for line in plain))
    content = read_ledger(path)
    assert content.entries == {SHARDS[0].key: entry(0), SHARDS[1].key: entry(1)}
    assert content.damaged == ()


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", "", "\0", "link"])
def test_i12_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "outside")
    with Ledger(tmp_path / "run", plan()) as ledger:
        ledger.append(dataclasses.replace(entry(0), file=name))
    with pytest.raises(InputError, match="names a file outside of its folder"):
        Ledger(tmp_path / "run", plan())
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_that_is_no_ledger_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InputError, match="not a line of this ledger"):
        Ledger(tmp_path, plan())


def test_another_plan_is_refused_by_naming_what_differs_unless_fresh(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"key\.strength \(1 -> 2\).*--fresh"):
        Ledger(tmp_path, plan(2))
    assert path.read_bytes() == before
    with Ledger(tmp_path, plan(2), fresh=True) as ledger:
        assert ledger.entries == {}
    assert read_ledger(path).entries == {}


def test_f20_a_second_driver_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with Ledger(tmp_path, plan()):
        with pytest.raises(UsageError, match=rf"locked by pid {os.getpid()} on host .* since \d{{4}}-") as caught:
            Ledger(tmp_path, plan())
        assert caught.value.exit_code == 2
    Ledger(tmp_path, plan()).close()


def test_f20_the_lock_of_a_killed_driver_is_taken_over(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_ledger import Ledger, Path, entry, plan
ledger = Ledger(Path({str(tmp_path)!r}), plan())
ledger.append(entry(0))
print("held", flush=True)
time.sleep(60)
"""
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"pid {driver.pid} "):
        Ledger(tmp_path, plan())
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    with Ledger(tmp_path, plan()) as ledger:
        assert list(ledger.entries) == [SHARDS[0].key]


def test_a_lock_from_another_host_is_not_judged_from_here(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01"}))
    with pytest.raises(UsageError, match="pid 1 on host elsewhere since 2026-01-01; if that run is gone, delete"):
        Ledger(tmp_path, plan())


@pytest.mark.parametrize("alive", [True, False])
def test_without_flock_the_pid_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(38, "Function not implemented")

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": os.getpid() if alive else gone.pid, "host": socket.gethostname(), "since": "now"}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    monkeypatch.setattr(lock_module.fcntl, "flock", unsupported)
    if alive:
        with pytest.raises(UsageError, match="locked by pid"):
            Ledger(tmp_path, plan())
    else:
        Ledger(tmp_path, plan()).close()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="--out"):
        Ledger(tmp_path / "taken", plan())
