"""What a run is: a record that can be read back, a folder that is its own, and a status that tells the truth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from mplat.core.config import Config
from mplat.core.errors import InputError, UsageError
from mplat.core.folder_lock import FolderLock
from mplat.core.observer import WithoutParts
from mplat.core.whole_files import sha256_of
from mplat.runtime import Progress, WorkerFactory, open_session
from mplat.runtime.node_questions import _token
from mplat.runtime.pool import Finished, Lost
from mplat.runtime.record import RunRecord, list_runs, read_run
from mplat.runtime.stage import Observer, Planned, Stage

SCHEMA = pa.schema([("id", pa.string()), ("half", pa.float64()), ("status", pa.string()), ("reason", pa.string())])
STAGE = Stage("dance", results=("*.steps", "figures/*.svg"), by_content={"music"}, data_is="dancers")


class Dance(Config):
    """Settings of the command under test."""

    seed: int = 0
    music: str = "waltz"


def planned(digest: str = "aa", *, stage: Stage = STAGE, model: str = "bb", **settings: Any) -> Planned:
    about = {"name": "tiny", "arch": "mamba", "parameters": 3, "dtype": "float32", "digest": model}
    backend = {"device": "cpu", "dtype": "float32", "kernels": {"scan": "numba"}}
    return stage.plan(
        Dance(**settings), model=about, data={"digest": digest, "counts": {"pairs": 2}, "left_out": {"tired": 1}},
        seeds={"seed": 0}, plan={"floors": (1, 2)}, backend=backend, details={"end": [None, 1.5]},
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_halver(factor: float) -> Any:
    """Called by a worker factory."""

    class Halver:
        def run(self, payload: dict[str, Any]) -> pa.Table:
            rows = [{"id": item["id"], "half": factor * item["n"], "status": "ok"} for item in payload["items"]]
            return pa.Table.from_pylist(rows, schema=SCHEMA)

    return Halver()


def make_frugal(most: int) -> Any:
    """A halver that has memory for so many items, as a GPU would have."""

    class Frugal:
        def run(self, payload: dict[str, Any]) -> pa.Table:
            if len(payload["items"]) > most:
                raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
            return make_halver(0.5).run(payload)

    return Frugal()


def test_f12_what_memory_is_too_small_for_is_computed_in_pieces_and_said(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Observer):
        def say(self, text: str) -> None:
            said.append(text)

        def warn(self, text: str) -> None:
            said.append(text)

    items = [{"id": f"{n:02d}", "n": n} for n in range(10)]
    job = {"opens": {}, "key": {}, "schema": SCHEMA, "sort_by": ["id"], "batch_size": 8}
    with open_session("none") as session, planned().begin(tmp_path, session=session, observer=Listener()) as run:
        whole = run.job("whole", items, f"{__name__}:make_halver", arguments={"factor": 0.5}, **job)
        pieces = run.job("pieces", items, f"{__name__}:make_frugal", arguments={"most": 2}, **job)
    assert pieces.equals(whole) and len(whole) == 10
    ((name, cut),) = read_run(tmp_path).details["cut"].items()
    assert name == "pieces" and len(cut) == 1 and cut[0].startswith("00000-")
    assert any("pieces: 1 of its batches" in text and "computed in pieces" in text for text in said), said


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    with open_session("none") as session, planned().begin(tmp_path, session=session) as run:
        run.json("a.steps", {"x": 1})
        run.update(counts={"ok": 2}, details={"more": {"deep": [1]}})
    record = read_run(tmp_path)
    assert record == read_run(tmp_path / "run.json") == run.record and record.status == "done"
    assert record.files == {"a.steps": sha256_of((tmp_path / "a.steps").read_bytes())}
    assert record.details == {"end": [None, 1.5], "more": {"deep": [1]}} and record.plan == {"floors": [1, 2]}
    assert record.backend is not None and record.backend.session == {**session.describe()}
    assert len(record.code) == 64 and record.versions["torch"]
    keys = "command config model data versions code seeds backend plan counts files status details format"
    assert json.loads((tmp_path / "run.json").read_text()).keys() == set(keys.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.steps", "run.json"]


def test_a_run_that_fails_or_is_interrupted_stays_unfinished(tmp_path: Path) -> None:
    for number, error in enumerate([KeyboardInterrupt, ValueError]):
        with pytest.raises(error), planned().begin(tmp_path / str(number)) as run:
            run.json("a.steps", {})
            assert read_run(tmp_path / str(number)).status == "unfinished"
            raise error
        assert read_run(tmp_path / str(number)).status == "unfinished"
        with planned().begin(tmp_path / str(number)):  # its folder is free again, and what it left is cleared
            assert not (tmp_path / str(number) / "a.steps").exists()
        assert read_run(tmp_path / str(number)).status == "done"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"digest": "cc"}, "the dancers"),
        ({"model": "cc"}, "the model"),
        ({"seed": 1, "digest": "cc"}, "seed, the dancers"),
    ],
)
def test_another_run_is_refused_by_what_differs_and_left_alone(tmp_path: Path, other, named) -> None:
    with planned().begin(tmp_path):
        pass
    before = files(tmp_path)
    for act in (planned(**other).check, lambda out: planned(**other).begin(out).__enter__()):
        with pytest.raises(UsageError, match=rf"run of `mplat dance`.*\(differs in {named}\).*--fresh"):
            act(tmp_path)
    planned(**other).check(tmp_path, fresh=True)
    planned(music="tango").check(tmp_path)  # compared by what it holds
    assert files(tmp_path) == before


def test_another_plan_is_another_run(tmp_path: Path) -> None:
    with planned().begin(tmp_path):
        pass
    other = STAGE.plan(Dance(), model=planned().record.model.model_dump(), data={"digest": "aa"}, plan={"floors": [1]})
    with pytest.raises(UsageError, match="differs in the floors"):
        other.check(tmp_path)


def test_a_run_of_another_command_is_refused_even_with_fresh(tmp_path: Path) -> None:
    with planned().begin(tmp_path):
        pass
    before = files(tmp_path)
    for fresh in (False, True):
        with pytest.raises(UsageError, match="holds a run of `mplat dance`; choose another --out"):
            planned(stage=Stage("sing")).check(tmp_path, fresh=fresh)
    assert files(tmp_path) == before


def test_fresh_deletes_what_the_stage_owns_and_nothing_else(tmp_path: Path) -> None:
    mine = {"notes.txt": b"mine", "figures/photo.png": b"mine", "deep/a.steps": b"mine"}
    owned = {"a.steps": b"", "figures/b.svg": b"", "work/job-1/ledger.jsonl": b""}
    with planned().begin(tmp_path) as run:
        run.bytes("named", b"")  # no pattern has it, its record does
    for name, data in (mine | owned).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with planned().begin(tmp_path) as run:
        assert files(tmp_path).keys() >= mine.keys() | {"work/job-1/ledger.jsonl"}  # by it a run continues
        assert not (tmp_path / "a.steps").exists()
        run.bytes("named", b"")
    with planned(seed=1).begin(tmp_path, fresh=True):
        pass
    assert {name: data for name, data in files(tmp_path).items() if name != "run.json"} == mine


def test_what_a_killed_run_was_writing_is_deleted_by_the_next_one(tmp_path: Path) -> None:
    """Of a run that shares its folder, what has its name: another one may be writing there."""
    part = f".{'0af' * 10}9b.part"
    left = [f".a.steps{part}", f".run.json{part}", f"figures/.b.svg{part}", f".other.run.json{part}"]
    mine = [".mine.part", f"deep/.a.steps{part}", f".b.c.parquet{part}"]
    for name in (*left, *mine):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    with planned().begin(tmp_path, name="other"):
        assert {str(path) for path in files(tmp_path)} - {"other.run.json", ".other.lock"} == {*left[:3], *mine}
    with planned().begin(tmp_path, name="b"):
        assert f".b.c.parquet{part}" in files(tmp_path)
    with planned().begin(tmp_path):
        pass
    assert {str(path) for path in files(tmp_path) if "run.json" not in path} == {*mine[:2]}


@pytest.mark.parametrize("name", ["", "b"])
def test_so_is_what_it_was_asking_the_nodes_with(tmp_path: Path, name: str) -> None:
    with planned().begin(tmp_path, name=name, session=open_session("none")) as run:
        asking = _token(run.session.record)
        path, content = asking.__enter__() or ("", "")
        assert Path(path).parent == tmp_path and Path(path).read_text() == content
        whole = Path(path).read_bytes()
        asking.__exit__(None, None, None)
        assert not Path(path).exists()
        Path(path).write_bytes(whole)  # as if it had been killed before
    with planned().begin(tmp_path, name=name):
        assert not Path(path).exists()


def test_without_a_record_nothing_is_known_to_be_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.steps").write_text("mine")
    with planned().begin(tmp_path, fresh=True):
        pass
    assert (tmp_path / "a.steps").read_text() == "mine"


def test_a_record_that_names_files_elsewhere_deletes_none_of_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "mine").write_text("mine")
    with planned().begin(out):
        pass
    record = json.loads((out / "run.json").read_text())
    (out / "deep").mkdir()
    (out / "deep" / "notes").write_text("mine")
    record["files"] = {"../mine": "", str(tmp_path / "mine"): "", ".": "", "deep": ""}
    (out / "run.json").write_text(json.dumps(record))
    with planned().begin(out, fresh=True):
        pass
    assert (tmp_path / "mine").read_text() == (out / "deep" / "notes").read_text() == "mine"


def test_one_driver_at_a_time_and_the_lock_leaves_no_file(tmp_path: Path) -> None:
    with planned().begin(tmp_path):
        with pytest.raises(UsageError, match=rf"locked by pid {os.getpid()} on host"):
            planned().begin(tmp_path).__enter__()
    assert not (tmp_path / ".lock").exists()
    first = FolderLock(tmp_path / ".lock")
    first.release()
    second = FolderLock(tmp_path / ".lock")
    first.release()  # a second time: it has nothing to let go, and takes nothing from the second
    with pytest.raises(UsageError, match="locked by pid"):
        FolderLock(tmp_path / ".lock")
    second.release()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", InputError, "run.json: not valid JSON"),
        ('{"command": "dance"}', InputError, "it has no config"),
        ('{"command": "dance", "config": {}, "format": 1, "model": "x"}', InputError, "damaged .model: "),
        ('{"command": "dance", "config": {}, "format": 1, "colour": 1}', InputError, "damaged .colour: "),
        ('{"name": "mine"}', UsageError, "not of mplat"),
        ('{"command": "dance", "config": {"seed": 7}}', UsageError, r"differs in seed\)"),
        ('{"command": "dance", "config": {}}', UsageError, "differs in the format of its record"),
        ('{"command": "dance", "config": {}, "format": 2}', UsageError, "differs in the format of its record"),
    ],
)
def test_what_is_no_record_of_this_version_is_one_sentence(tmp_path: Path, text, error, message) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(error, match=message):
        planned().check(tmp_path)
    with pytest.raises((InputError, UsageError), match="run.json"):
        read_run(tmp_path)
    if "dance" in text or error is InputError:
        with planned().begin(tmp_path, fresh=True):
            pass
        assert read_run(tmp_path).status == "done"


def test_there_is_no_run_in_an_empty_folder_and_every_one_is_found_below(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        read_run(tmp_path)
    for name in ("b", "a/c", ".hidden"):
        with planned().begin(tmp_path / name):
            pass
    assert [str(p.relative_to(tmp_path)) for p in list_runs(tmp_path)] == ["a/c/run.json", "b/run.json"]


def test_a_job_continues_under_one_key_and_begins_anew_under_another(tmp_path: Path) -> None:
    class Told(Observer):
        def __init__(self) -> None:
            self.resumed: list[int] = []

        def progress(self, progress: Progress) -> None:
            self.resumed.append(progress.resumed_shards)

    items = [{"id": name, "n": number} for number, name in enumerate("abc")]

    def table(out: Path, factor: float = 0.5, **begin: Any) -> tuple[pa.Table, int]:
        observer = Told()
        with open_session("none") as session:
            with planned().begin(out, session=session, observer=observer, **begin) as run:
                made = run.job(
                    "halves", items, f"{__name__}:make_halver", opens={}, arguments={"factor": factor}, key={"code": 1},
                    schema=SCHEMA, sort_by=["id"], batch_size=1, lost=lambda item: {"half": -1.0},
                )  # fmt: skip
        return made, observer.resumed[-1]

    first, resumed = table(tmp_path)
    assert first["half"].to_pylist() == [0.0, 0.5, 1.0] and resumed == 0
    assert table(tmp_path) == (first, 3)
    assert table(tmp_path, fresh=True) == (first, 0)
    assert table(tmp_path, 0.25)[0]["half"].to_pylist() == [0.0, 0.25, 0.5]
    assert len(list((tmp_path / "work").glob("halves-*"))) == 2


class Deadly:
    """A place with one worker, which the item `b` kills."""

    depth = 1

    def __init__(self) -> None:
        self.actor, self.held = 0, {}

    @contextmanager
    def pool(self, factory: WorkerFactory, *, at_most: int | None = None) -> Iterator[Deadly]:
        self.worker = make_halver(**factory.kwargs)
        yield self

    def describe(self) -> dict[str, Any]:
        return {"threads_per_actor": 1}

    def actors(self) -> list[int]:
        return [self.actor]

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        self.held = payload
        return 0

    def wait(self, timeout_s: float) -> list[Finished | Lost]:
        if any(item["id"] == "b" for item in self.held["items"]):
            return [Lost(0, self.actor, "killed", False)]
        return [Finished(0, self.worker.run(self.held))]

    def replace(self, actor: int) -> None:
        self.actor += 1


def test_an_item_that_kills_every_worker_costs_itself_and_says_what_is_known_of_it(tmp_path: Path) -> None:
    items = [{"id": name, "n": number, "other": 1} for number, name in enumerate("abc")]
    with planned().begin(tmp_path, session=Deadly()) as run:  # type: ignore[arg-type]
        rows = run.job(
            "halves", items, "tests:make_halver", opens={}, arguments={"factor": 0.5}, key={}, schema=SCHEMA,
            sort_by=["id"], batch_size=3, lost=lambda item: {"half": -1.0},
        ).to_pylist()  # fmt: skip
    assert [(row["id"], row["half"], row["status"]) for row in rows] == [
        ("a", 0.0, "ok"), ("b", -1.0, "worker_lost"), ("c", 1.0, "ok"),
    ]  # fmt: skip
    assert rows[1]["reason"] == "killed"


def test_a_run_inside_another_tells_how_far_it_is_and_not_its_parts() -> None:
    class Told(Observer):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def say(self, text: str) -> None:
            self.heard.append(text)

        def begin(self, part: str, detail: str = "") -> None:
            self.heard.append(part)

        def warn(self, text: str) -> None:
            self.heard.append(f"warning: {text}")

        def progress(self, progress: Progress) -> None:
            self.heard.append(f"{progress.rows_done} of {progress.rows}")

    outer = Told()
    inner = WithoutParts(outer)
    inner.say("a")
    inner.begin("b")
    inner.end("b", "c", 1.0)
    inner.report("d", {"x": 1.0})
    inner.warn("e")
    inner.progress(Progress("f", 1, 2, 3, 4, 0))
    assert outer.heard == ["warning: e", "3 of 4"]


def test_a_record_needs_no_section_but_command_and_config() -> None:
    record = RunRecord(command="dance", config={})
    assert record.status == "unfinished" and RunRecord.model_validate_json(record.model_dump_json()) == record
