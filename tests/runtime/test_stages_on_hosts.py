"""Every command that gives its work to workers, on three hosts and then two: the bytes of one process.

A host loses its power while its worker is being set up. Training on hosts is in `train/test_train_on_cluster.py`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest
from command_stages import STAGES, content, inputs, words
from mplat.commands import main
from mplat.runtime.record import read_run
from ray_nodes import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.multinode, pytest.mark.slow]

ORDER = ["interp", *(stage for stage in STAGES if stage not in ("interp", "train"))]


def kill_once_it_works(cluster: Cluster, node: int, killed: list[int]) -> None:
    """A machine's death, as soon as a worker's process is there."""
    deadline = time.monotonic() + 300
    while not any("ShardActor" in _command(process) for process in cluster.processes(node)):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    cluster.kill_node(node)
    killed.append(node)


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):  # it has just ended
        return " ".join(process.cmdline())
    return ""


def run(stage: str, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *where: str) -> dict[str, bytes]:
    monkeypatch.setenv("MPLAT_CACHE", str(out.with_suffix(".cache")))
    assert main([*words(stage, place, out), "--quiet", *where]) == 0, stage
    return content(out)


def test_f3_f23_every_command_makes_the_same_bytes_on_three_hosts_and_when_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = inputs(tmp_path)
    right = {stage: run(stage, place, tmp_path / stage, monkeypatch, "--address", "none") for stage in ORDER}
    killed: list[int] = []
    with Cluster(head_cpus=0, hosts=True) as cluster:
        nodes = [cluster.add_node() for _ in range(3)]
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, cluster.environment[name])
        trouble = threading.Thread(target=kill_once_it_works, args=(cluster, nodes[1], killed), daemon=True)
        trouble.start()
        for stage in ORDER:
            out = tmp_path / f"{stage}-on-hosts"
            assert run(stage, place, out, monkeypatch, "--address", cluster.address) == right[stage], stage
            if (record := out / "run.json").is_file() and stage != "tokenize":
                used = read_run(record).model_dump()["backend"]["session"]
                assert (used["kind"], used["actors"]) == ("cluster", 3 if stage == ORDER[0] else 2), stage
    trouble.join(10)
    assert killed and all(right.values())
