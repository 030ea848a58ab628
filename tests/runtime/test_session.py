"""Where work runs is one argument: without Ray nothing of Ray is touched, a wrong address is one sentence in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mplat.core.errors import ClusterError, InputError, UsageError
from mplat.runtime import WorkerFactory, open_session
from mplat.runtime.private_folder import end_processes_of

SUPPORT = Path(__file__).resolve().parent.parent / "support"

WITHOUT_RAY = f"""
import sys
sys.modules["ray"] = None  # as if it were not installed
sys.path.insert(0, {str(SUPPORT)!r})
from pathlib import Path
from mplat.core.errors import UsageError
from mplat.runtime import WorkerFactory, open_session, run_table
from shard_workers import SCHEMA, items
assert "torch" not in sys.modules
with open_session("none") as session:
    table = run_table("t", items(9), WorkerFactory("shard_workers:make"), out_dir=Path(sys.argv[1]), session=session,
                      batch_size=4, sort_by=["id"], schema=SCHEMA, semantic_key={{}})
assert table.num_rows == 9
try:
    open_session("local")
except UsageError as error:
    print(error)
"""


def test_without_ray_installed_everything_runs_in_this_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "--address local needs Ray, which is not installed; use --address none to run in this "
        "process, or `pip install ray`\n"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("lokal", "did you mean 'local'"),
        ("ray://head:10001", "client protocol is too slow"),
        ("head", "is not an address"),
        ("head:0", "is not an address"),
        ("head:70000", "is not an address"),
        ("", "is not an address"),
    ],
)
def test_what_is_no_address_is_a_usage_error(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(address)


def test_more_than_one_actor_needs_ray() -> None:
    assert open_session("none", actors=1).actors == 1
    with pytest.raises(UsageError, match="2 actors need Ray"):
        open_session("none", actors=2)
    with pytest.raises(UsageError, match="at least one actor"):
        open_session("none", actors=0)


def test_auto_is_what_ray_address_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "none")
    assert open_session("auto").kind == "in-process"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def silent_server() -> Iterator[int]:
    """Something that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for connection in accepted:
            connection.close()


def test_f29_an_address_where_nothing_is_fails_in_time_and_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    address = f"127.0.0.1:{free_port()}"
    begun = time.monotonic()
    expected = rf"cannot connect to Ray at {address}.*nothing answers.*RAY_AUTH_MODE"
    with pytest.raises(ClusterError, match=expected) as caught:
        open_session(address)
    assert time.monotonic() - begun <= 15.0  # promised to the user, not a measure of speed
    assert caught.value.exit_code == 4
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.ray
def test_f29_an_address_that_is_not_ray_fails_in_time() -> None:
    with silent_server() as port:
        begun = time.monotonic()
        with pytest.raises(ClusterError, match="not in time as a Ray of this version"):
            open_session(f"127.0.0.1:{port}", connect_timeout_s=5.0)
        assert time.monotonic() - begun <= 10.0  # 5 s, and a loaded machine's share for ending the attempt


def test_what_a_failed_start_leaves_running_is_ended_and_nothing_else(tmp_path: Path) -> None:
    def sleeper(argument: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", argument])

    ours, other = sleeper(f"--session_dir={tmp_path}/session_1"), sleeper("--session_dir=/elsewhere")
    try:
        end_processes_of(tmp_path)
        assert not psutil.pid_exists(ours.pid)
        assert psutil.pid_exists(other.pid) and other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_a_worker_is_made_by_name_and_plain_arguments() -> None:
    for target in ("shard_workers", "shard_workers:", ":make", "__main__:make"):
        with pytest.raises(UsageError, match="importable module"):
            WorkerFactory(target)
    with pytest.raises(UsageError, match="plain finite JSON"):
        WorkerFactory("shard_workers:make", {"log": Path("x")})
    with pytest.raises(UsageError, match="did you mean 'make_torch'"):
        WorkerFactory("shard_workers:make_troch").build()


def test_a_worker_that_cannot_be_made_is_its_own_error() -> None:
    with open_session("none") as session, pytest.raises(InputError, match="no config.json"):
        with session.pool(WorkerFactory("shard_workers:make_unmakable")):
            raise AssertionError("never reached")


def test_threads_are_limited_in_the_pool_and_restored_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        factory = WorkerFactory("shard_workers:make_torch")
        with open_session("none", threads_per_actor=1) as session, session.pool(factory):
            assert torch.get_num_threads() == 1
            assert os.environ["OMP_NUM_THREADS"] == "1"
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "7"
    finally:
        torch.set_num_threads(before)
