"""On Ray as in this process: the same bytes with one and two actors, after deaths, and continued elsewhere.

One private Ray for the whole file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from mplat.core.errors import InputError, UsageError
from mplat.core.whole_files import table_bytes
from mplat.runtime import Session, WorkerError, WorkerFactory, open_session, read_ledger, run_table
from mplat.runtime.installation import installation
from mplat.runtime.ray_pool import RayPool
from shard_workers import SCHEMA, executions, items

pytestmark = pytest.mark.ray

SUPPORT = Path(__file__).resolve().parent.parent / "support"
ITEMS = items(40)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Session]:
    """A private local Ray whose workers find the test's workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
        patch.delenv("RAY_AUTH_MODE", raising=False)
        with open_session("local", actors=2) as session:
            yield session
        assert "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ


def make_table(session: Session, folder: Path, *, function: str = "make", **arguments: Any) -> pa.Table:
    return run_table(
        "test",
        ITEMS,
        WorkerFactory(f"shard_workers:{function}", arguments),
        out_dir=folder,
        session=session,
        batch_size=7,
        sort_by=["id"],
        schema=SCHEMA,
        semantic_key={"strength": 1.0},
    )


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The table of one uninterrupted run in this process."""
    with open_session("none") as session:
        return make_table(session, tmp_path_factory.mktemp("right"))


@pytest.mark.parametrize("actors", [1, 2])
def test_f23_ray_gives_the_bytes_of_this_process(
    ray_session: Session, right: pa.Table, tmp_path: Path, actors: int
) -> None:
    table = make_table(ray_session.using(actors=actors), tmp_path)
    assert table_bytes(table) == table_bytes(right)


def test_float32_products_and_thread_counts_are_the_same_too(ray_session: Session, tmp_path: Path) -> None:
    with open_session("none") as here:
        expected = make_table(here, tmp_path / "here", function="make_torch")
    table = make_table(ray_session, tmp_path / "ray", function="make_torch")
    assert table_bytes(table) == table_bytes(expected)
    assert set(table.column("status").to_pylist()) == {"1 threads"}


def test_f1_a_killed_actor_changes_no_byte(
    ray_session: Session, right: pa.Table, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    table = make_table(ray_session, tmp_path / "out", log=str(log), dies_on="q003")
    assert table_bytes(table) == table_bytes(right)
    attempts = [e.attempts for e in read_ledger(tmp_path / "out" / "ledger.jsonl").entries.values()]
    assert sorted(attempts) == [1, 1, 1, 1, 1, 2]
    assert len(executions(log)) >= 7, "the killed one, and each of the six"
    assert capfd.readouterr().out == "", "standard output is the command's, whatever Ray has to say"


def test_f8_an_item_that_kills_every_worker_loses_its_own_row_only(
    ray_session: Session, right: pa.Table, tmp_path: Path
) -> None:
    table = make_table(ray_session, tmp_path, dies_on="q003", every_time=True)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows.pop("q003") == {"id": "q003", "value": None, "status": "worker_lost"}
    assert {row["status"] for row in rows.values()} == {"ok"} and len(rows) == 39
    same = [row for row in right.to_pylist() if rows.get(row["id"]) == row]
    assert len(same) == 33, "the other batches keep every bit; the cut one was computed in smaller batches"


def test_f5_f24_a_driver_killed_without_ray_is_continued_on_it(
    ray_session: Session, right: pa.Table, tmp_path: Path
) -> None:
    log, folder = tmp_path / "log", tmp_path / "out"
    program = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(SUPPORT)!r})
from mplat.runtime import WorkerFactory, open_session, run_table
from shard_workers import SCHEMA, items
def die_at_two(progress):
    if progress.shards_done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
run_table("test", items(40), WorkerFactory("shard_workers:make", {{"log": {str(log)!r}}}),
          out_dir=Path({str(folder)!r}), session=open_session("none"), batch_size=7, sort_by=["id"], schema=SCHEMA,
          semantic_key={{"strength": 1.0}}, progress=die_at_two)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    table = make_table(ray_session, folder, log=str(log))
    assert table_bytes(table) == table_bytes(right)
    begun = executions(log)
    assert len(begun) == len(set(begun)) == 6


def test_what_a_worker_raises_arrives_as_one_error(ray_session: Session, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"KeyError: 'no such thing for q003'(?s:.*)shard_workers\.py"):
        make_table(ray_session, tmp_path, raises_on="q003")


def test_f32_a_worker_that_cannot_be_made_keeps_its_error(ray_session: Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model folder /nowhere: no config\.json$"):
        make_table(ray_session, tmp_path, function="make_unmakable")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("sources", r"on node \S+ the sources of mplat [0-9.]+ are others there \([0-9a-f]{12}\) than here \(other\)"),
        ("torch", r"on node \S+ torch is 2\.\S+ there and other here"),
        ("mplat", r"on node \S+ mplat is \d+\.\d+\.\d+ there and other here"),
    ],
)
def test_f31_a_node_that_would_make_other_rows_is_one_sentence(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, sentence: str
) -> None:
    assert ray_session.connection is not None
    ray_session.connection.idle.end()  # they were looked at when they were started
    monkeypatch.setattr("mplat.runtime.ray_pool.installation", lambda **asked: installation(**asked) | {what: "other"})
    with pytest.raises(WorkerError, match=f"{sentence}; install the same on every node"):
        make_table(ray_session, tmp_path)


def test_the_actors_of_one_table_make_the_next(ray_session: Session, right: pa.Table, tmp_path: Path) -> None:
    def processes(session: Session) -> set[int]:
        with session.pool(WorkerFactory("shard_workers:make")) as pool:
            while len(pool.actors()) < session.actors:
                assert not pool.wait(1.0)
            assert isinstance(pool, RayPool)
            return {actor["pid"] for actor in pool.descriptions.values()}

    first = processes(ray_session)
    assert len(first) == 2 and processes(ray_session) == first and processes(ray_session.using(actors=1)) < first
    with pytest.raises(WorkerError, match="no such thing"):
        make_table(ray_session, tmp_path / "failed", raises_on="q003")
    os.kill(min(first), signal.SIGKILL)  # while it has nothing to do
    assert table_bytes(make_table(ray_session, tmp_path / "right")) == table_bytes(right)
    assert max(first) in processes(ray_session) != first


def test_a_private_ray_is_out_of_reach_for_others(ray_session: Session) -> None:
    import ray

    processes = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in processes]
    assert len({c.pid for c in listening}) >= 3
    assert all(ip_address(c.laddr.ip.removeprefix("::ffff:")).is_loopback for c in listening), listening
    folder = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]  # pyright: ignore
    assert folder.name.startswith("mplat-") and folder.stat().st_mode & 0o077 == 0


def test_f30_actors_that_can_never_be_placed_are_refused_with_what_exists(ray_session: Session) -> None:
    with pytest.raises(UsageError, match=r"9999 actors with 1 CPU each do not fit: \d+ can be placed on 1 node"):
        ray_session.using(actors=9999)
    with pytest.raises(UsageError, match="this process is connected to a Ray already"):
        open_session("local")
    with pytest.raises(UsageError, match=r"1 actors with 1 CPU and 8 GPU each do not fit: 0 can be placed .* 0 GPU"):
        open_session("auto", gpus_per_actor=8)


ATTACH = """
import sys
from mplat.core.errors import ClusterError
from mplat.runtime import open_session
try:
    with open_session(sys.argv[1], actors=1, connect_timeout_s=60.0) as session:
        print(session.kind)
except ClusterError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "answer"), [("token", "cluster\n"), ("disabled", "it refused our token")])
def test_f29_attaching_needs_the_same_authentication(ray_session: Session, mode: str, answer: str) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_AUTH_MODE": mode}
    done = subprocess.run([sys.executable, "-c", ATTACH, address], env=environment, capture_output=True, text=True)
    assert answer in done.stdout, done.stderr[-2000:]
    if mode == "disabled":
        assert address in done.stdout and "RAY_AUTH_MODE is disabled here" in done.stdout


def test_auto_uses_the_ray_of_this_process_and_leaves_it(ray_session: Session, right: pa.Table, tmp_path: Path) -> None:
    with open_session("auto", actors=1) as session:
        assert table_bytes(make_table(session, tmp_path)) == table_bytes(right)
    assert make_table(ray_session, tmp_path / "again").num_rows == 40


DRIVER = """
import os, sys, tempfile
from pathlib import Path
from mplat.runtime import WorkerFactory, open_session, run_table
from shard_workers import SCHEMA, items
from mplat.core.errors import StoppedEarly
os.environ["TMPDIR"] = tempfile.tempdir = sys.argv[1] + "/" + "long" * 30  # sockets do not go there
os.makedirs(tempfile.tempdir)
def tell(progress):
    print(progress.shards_done, flush=True)
try:
    with open_session("local", actors=1) as session:
        run_table("test", items(40), WorkerFactory("shard_workers:make", {"sleep_s": 0.2}), out_dir=Path(sys.argv[1]),
                  session=session, batch_size=1, sort_by=["id"], schema=SCHEMA, semantic_key={}, progress=tell)
except StoppedEarly as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_f6_f33_sigterm_saves_what_runs_and_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if line == "3\n":
            break
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) > 3, "a private Ray is running"
    driver.send_signal(signal.SIGTERM)
    said = driver.communicate()[0]
    assert driver.returncode == 75, said
    saved = len(read_ledger(tmp_path / "ledger.jsonl").entries)
    assert (
        f"stopped early; {saved} of the 40 shards that stage 'test' still needed are saved" in said and 3 <= saved <= 7
    )
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
