"""What Ray says of a machine that is full, or of a node without mplat, told apart and said in one sentence.

Ray itself is a stand-in that raises its own errors at chosen calls; the pool, the scheduler and the ledger are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from mplat.core.errors import ClusterError
from mplat.core.whole_files import table_bytes
from mplat.runtime import WorkerFactory, open_session, read_ledger, run_table
from shard_workers import SCHEMA, executions, items

exceptions = pytest.importorskip("ray.exceptions")
from mplat.runtime import ray_pool  # noqa: E402 - which imports Ray

SIZES = "Failed to put object in object store because it is full. Object size is 402653184 bytes."


class Remote:
    """A method of an actor: `.remote(...)` gives a reference, here a function that returns or raises what `ray.get`
    would."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        found = self.call(*arguments)
        return lambda: found() if callable(found) else found


def raising(error: Exception) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


class Actor:
    """At its calls it does what `faults` say, one after the other: nothing, raise at once, or raise at `ray.get`."""

    def __init__(self, faults: list[Any]) -> None:
        self.faults, self.end = faults, None
        self.build, self.run = Remote(self._build), Remote(self._run)

    def _build(self, target: str, arguments: dict[str, Any]) -> Any:
        if self.faults and self.faults[0] == "unmade":
            text = "RuntimeError: The actor with name ShardActor failed to import on the worker."
            cause = exceptions.RayTaskError("ShardActor.__init__", text, RuntimeError(text), "worker", 1, "1.2.3.4")
            return raising(exceptions.ActorDiedError(cause))
        if self.faults and self.faults[0] == "dies at start":
            self.faults.pop(0)
            return raising(exceptions.ActorDiedError())
        self.worker = WorkerFactory(target, arguments).build()
        return {"failure": None, "node": "n", "pid": 1, "torch_threads": 1}

    def _run(self, payload: dict[str, Any]) -> Any:
        how, error = (self.faults.pop(0) if self.faults else None) or ("", Exception())
        if how == "sent":
            raise error
        if how == "died":
            self.end = error
        if self.end or how == "answered":
            return raising(self.end or error)
        return self.worker.run(payload)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., pa.Table]:
    """`table(*faults, notes=[...])`: 40 rows in 6 shards by one actor after the other; None is a call without a
    fault. machines: deaths at the start are those of machines."""
    faults: list[Any] = []
    gone: list[str] = []
    made = SimpleNamespace(remote=lambda *arguments: Actor(faults))
    fake = SimpleNamespace(
        remote=lambda kind: SimpleNamespace(options=lambda **options: made),
        wait=lambda pending, num_returns, timeout: (pending[:num_returns], pending[num_returns:]),
        get=lambda reference, timeout=None: reference(),
        kill=lambda handle, no_restart: None,
    )
    nodes = SimpleNamespace(is_gone=lambda node: False, newly_gone=lambda: [*gone], in_words=lambda: "")
    for name, value in {"ray": fake, "Nodes": lambda: nodes, "installation": dict, "_VERDICT_S": 0.0}.items():
        monkeypatch.setattr(ray_pool, name, value)

    @contextmanager
    def pool(factory: WorkerFactory, *, at_most: int | None = None) -> Iterator[ray_pool.RayPool]:
        opened = ray_pool.RayPool(factory, size=1)
        yield opened
        opened.close()

    def make(*chosen: Any, notes: list[str] | None = None, machines: bool = False, fresh: bool = False) -> pa.Table:
        faults[:] = chosen
        gone[:] = ["n"] if machines else []
        said = [] if notes is None else notes
        return run_table(
            "test", items(40), WorkerFactory("shard_workers:make", {"log": str(tmp_path / "log")}),
            out_dir=tmp_path / "out", session=SimpleNamespace(pool=pool), batch_size=7, sort_by=["id"], schema=SCHEMA,
            semantic_key={}, progress=lambda p: said.append(p.note), fresh=fresh,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with open_session("none") as here:
        return table_bytes(run_table(
            "test", items(40), WorkerFactory("shard_workers:make"), out_dir=tmp_path_factory.mktemp("right"),
            session=here, batch_size=7, sort_by=["id"], schema=SCHEMA, semantic_key={},
        ))  # fmt: skip


def test_f13_a_worker_that_the_memory_killer_took_is_replaced_with_a_hint(table, right, tmp_path) -> None:
    notes: list[str] = []
    killed = exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nUsed 23.9 of 24 GB.")
    assert table_bytes(table(None, ("died", killed), notes=notes)) == right
    attempts = [entry.attempts for entry in read_ledger(tmp_path / "out" / "ledger.jsonl").entries.values()]
    assert sorted(attempts) == [1, 1, 1, 1, 1, 2]
    (said,) = [note for note in notes if "lost its worker" in note]
    assert "low on memory. Used 23.9 of 24 GB. (memory ran out: try fewer --actors)); attempt 2 follows" in said


FULL = exceptions.ObjectStoreFullError(SIZES)
IN_A_WORKER = exceptions.RayTaskError("run", "trace", FULL, "worker", 1, "1.2.3.4").as_instanceof_cause()
NO_DISK = exceptions.OutOfDiskError("00ff" * 14, b"address", "")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (("answered", FULL), ["ObjectStoreFullError", "402653184 bytes"]),
        (("answered", IN_A_WORKER), ["ObjectStoreFullError", "402653184 bytes"]),
        (("sent", FULL), ["ObjectStoreFullError", "402653184 bytes"]),
        (("answered", NO_DISK), ["OutOfDiskError", "over capacity"]),
    ],
    ids=["answer", "in a worker", "payload", "disk"],
)
def test_f14_a_full_object_store_or_disk_ends_the_run_with_4_and_it_goes_on(
    table, right, tmp_path, fault, words
) -> None:
    with pytest.raises(ClusterError, match="free some space, .*fewer --actors, then run the same command") as caught:
        table(None, None, fault)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value) and "00ff" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    saved = set(read_ledger(tmp_path / "out" / "ledger.jsonl").entries)
    before = len(executions(tmp_path / "log"))
    assert saved and table_bytes(table()) == right
    again = executions(tmp_path / "log")[before:]
    assert len(again) == 6 - len(saved) and not saved & set(again)


def test_f31_a_node_that_cannot_import_mplat_is_one_sentence(table) -> None:
    with pytest.raises(ClusterError, match="a worker could not be made .*install the same mplat and Python") as caught:
        table("unmade")
    assert "failed to import on the worker" in str(caught.value) and "\n" not in str(caught.value)


def test_f3_machines_that_die_while_workers_start_are_no_fault_of_the_work(table, right) -> None:
    starts = ["dies at start"] * 2
    died = exceptions.ActorDiedError()
    # never three in a row: an actor that came up is a new beginning
    assert table_bytes(table(*starts, None, ("died", died), *starts, None, ("died", died), *starts)) == right
    with pytest.raises(ClusterError, match=r"^3 workers died while they were being set up, the last with: .*fewer"):
        table(*starts, "dies at start", fresh=True)
    assert table_bytes(table(*["dies at start"] * 9, machines=True, fresh=True)) == right


def test_f4_a_pool_whose_number_was_not_named_grows_with_the_machines(table, monkeypatch) -> None:
    monkeypatch.setattr(ray_pool, "_LOOK_S", 0.0)
    room = [1]
    pool = ray_pool.RayPool(WorkerFactory("shard_workers:make"), size=1, most=lambda: room[0])
    for machines, expected in ((1, 1), (3, 3), (2, 3)):  # what is there is not ended where another needs the room
        room[0] = machines
        for _ in range(3):
            pool.wait(0.0)
        assert len(pool.actors()) == expected
    pool.close()
