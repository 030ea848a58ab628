"""Machines of a cluster that die, all of them too, one that comes late, and bad links: every row is there, no byte
differs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mplat.core.whole_files import table_bytes
from mplat.runtime import Limits, Session, WorkerFactory, open_session, read_ledger, run_table
from ray_nodes import Cluster
from shard_workers import SCHEMA, items

pytestmark = [pytest.mark.ray, pytest.mark.multinode, pytest.mark.slow]

SUPPORT = Path(__file__).resolve().parent.parent / "support"
SLOW = "q003"


def make_table(session: Session, folder: Path, notes: list[str], **arguments: Any) -> pa.Table:
    return run_table(
        "test", items(40), WorkerFactory("shard_workers:make_slow", arguments), out_dir=folder, session=session,
        batch_size=4, sort_by=["id"], schema=SCHEMA, semantic_key={}, progress=lambda p: notes.append(p.note),
        limits=Limits(straggler_floor_s=1000.0),
    )  # fmt: skip


def holder(cluster: Cluster, nodes: Iterable[int], log: Path, times: int = 1) -> int:
    """The node that works on the slow shard, once it was begun so often."""
    pids = wait_until(lambda: len(found := log.read_text().split() if log.exists() else []) >= times and found)
    (node,) = (n for n in nodes if int(pids[-1]) in {process.pid for process in cluster.processes(n)})
    return node


def wait_until(true: Any, seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_f2_f3_f4_two_deaths_of_one_shards_machine_then_of_all_and_a_late_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, notes = tmp_path / "pids", list[str]()
    with open_session("none") as here:
        right = make_table(here, tmp_path / "right", [], slow=SLOW, seconds=0.0, log=str(tmp_path / "no"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.syspath_prepend(str(SUPPORT))
    killed: list[str] = []

    with Cluster(head_cpus=0, hosts=True) as cluster:
        nodes = {cluster.add_node(), cluster.add_node()}

        def trouble() -> None:
            for times in (1, 2):
                node = holder(cluster, nodes, log, times)
                cluster.kill_node(node)
                nodes.remove(node)
                killed.append("the machine of the slow shard")
                if times == 1:
                    nodes.add(cluster.add_node())
            cluster.kill_node(nodes.pop())
            killed.append("the last")
            time.sleep(3)
            cluster.add_node()

        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, cluster.environment[name])
        with open_session(cluster.address, actors=2, connect_timeout_s=120) as session:
            thread = threading.Thread(target=trouble, daemon=True)
            thread.start()
            table = make_table(session, tmp_path / "out", notes, slow=SLOW, seconds=25.0, log=str(log))
            thread.join(60)
    assert len(killed) == 3
    assert table_bytes(table) == table_bytes(right)
    entries = read_ledger(tmp_path / "out" / "ledger.jsonl").entries.values()
    assert not any(entry.split for entry in entries) and max(entry.attempts for entry in entries) == 3
    assert sum(" is gone); attempt" in note for note in notes) >= 2


def test_f2_a_slow_link_and_one_that_is_cut_for_a_while_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut off is taken for dead; when it is back, what it still has to say is not counted twice."""
    log, notes, cut = tmp_path / "pids", list[str](), list[int]()
    with open_session("none") as here:
        right = make_table(here, tmp_path / "right", [], slow=SLOW, seconds=0.0, log=str(tmp_path / "no"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.syspath_prepend(str(SUPPORT))
    with Cluster(head_cpus=0, hosts=True) as cluster:
        network = cluster.network
        if network is None:
            pytest.skip("this user or machine has no network namespaces, and without them no cable to pull")
        nodes = [cluster.add_node(), cluster.add_node()]
        for node in nodes:
            network.slow(cluster.host(node), "20mbit")

        def trouble() -> None:
            node = holder(cluster, nodes, log)
            network.cut(cluster.host(node))
            cut.append(node)
            wait_until(lambda: any(" is gone); attempt" in note for note in notes))
            network.mend(cluster.host(node))

        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, cluster.environment[name])
        with open_session(cluster.address, actors=2, connect_timeout_s=120) as session:
            thread = threading.Thread(target=trouble, daemon=True)
            thread.start()
            table = make_table(session, tmp_path / "out", notes, slow=SLOW, seconds=12.0, log=str(log))
            thread.join(60)
    assert cut and table_bytes(table) == table_bytes(right)
    entries = read_ledger(tmp_path / "out" / "ledger.jsonl").entries.values()
    assert not any(entry.split for entry in entries) and max(entry.attempts for entry in entries) == 2
