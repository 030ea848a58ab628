"""SIGKILL at random moments, of the command, of one of its workers or of a worker's machine: the same command goes on,
and no byte differs.

`make chaos` kills fifty times in each stage, MPLAT_KILLS so often: under a private Ray, and on hosts (MPLAT_KILLS_ON).
Without, five times in one, without Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from command_stages import STAGES, content, inputs, words
from ray_nodes import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("MPLAT_KILLS", "0"))
WHERE = os.environ.get("MPLAT_KILLS_ON", "ray,hosts").split(",") if KILLS else ["here"]
FIGURES = os.environ.get("MPLAT_KILLS_FIGURES")  # a file that gets a line for each stage
FEW, USUAL = 5, ["interp"]


class Here:
    """One process, or several of a private Ray, on this machine."""

    def __init__(self, *where: str) -> None:
        self.where, self.environment = where, dict(os.environ)

    def kill(self, command: psutil.Process, chance: random.Random) -> str:
        """The command or one of its workers; which."""
        children = command.children(recursive=True)
        chosen = chance.choice([command, *filter(works, children)])
        chosen.send_signal(signal.SIGKILL)
        return "command" if chosen.pid == command.pid else "worker"


class Hosts:
    """A cluster of two machines with one worker each; one that dies is replaced."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.environment = cluster, cluster.environment
        self.where = ("--address", cluster.address)
        self.nodes = [cluster.add_node(), cluster.add_node()]

    def kill(self, command: psutil.Process, chance: random.Random) -> str:
        """The command, one of its workers, or the whole machine of one; which."""
        what, node = chance.choice(["command", "worker", "machine"]), chance.choice(self.nodes)
        workers = [*filter(works, self.cluster.processes(node))]
        if what == "machine":
            self.cluster.kill_node(node)
            self.nodes[self.nodes.index(node)] = self.cluster.add_node()
        elif what == "worker" and workers:
            chance.choice(workers).send_signal(signal.SIGKILL)
        else:  # none is up
            command.send_signal(signal.SIGKILL)
            return "command"
        return what


def works(process: psutil.Process) -> bool:
    """Whether it is a worker under Ray."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "ShardActor" in " ".join(process.cmdline())
    return False


@pytest.fixture(scope="module", params=WHERE)
def seat(request: pytest.FixtureRequest) -> Iterator[Here | Hosts]:
    """Where commands are run and killed."""
    if request.param != "hosts":
        yield Here(*{"here": ["--address", "none"], "ray": ["--address", "local", "--actors", "2"]}[request.param])
        return
    with Cluster(head_cpus=0, hosts=True) as cluster:
        yield Hosts(cluster)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and texts."""
    return inputs(tmp_path_factory.mktemp("inputs"))


def begin(seat: Here | Hosts, stage: str, place: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    environment = seat.environment | {"MPLAT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mplat", *words(stage, place, out), "--quiet"]
    command += [] if stage == "train" else seat.where
    with open(out.with_suffix(".said"), "w", encoding="utf-8") as said:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said, text=True)


@pytest.mark.parametrize("stage", list(STAGES) if KILLS else USUAL)
def test_f35_killed_at_any_moment_a_command_ends_with_the_bytes_of_an_undisturbed_one(
    seat: Here | Hosts, place: Path, tmp_path: Path, stage: str
) -> None:
    if stage == "train" and isinstance(seat, Hosts):
        pytest.skip("training on hosts, one of which dies, is in train/test_train_on_cluster.py")
    start = time.monotonic()
    right = begin(seat, stage, place, tmp_path / "right", tmp_path / "c1")
    assert right.wait() == 0, (tmp_path / "right.said").read_text()
    usual = time.monotonic() - start

    chance, killed, rounds = random.Random(stage), Counter[str](), 0
    while killed.total() < (KILLS or FEW):  # a command may be through before it can be killed so often
        rounds += 1
        out, cache = tmp_path / f"out-{rounds}", tmp_path / f"cache-{rounds}"
        disturb(seat, partial(begin, seat, stage, place, out, cache), out, usual, chance, killed)
        assert content(out) == content(tmp_path / "right") and content(out)
        assert not [path for path in out.rglob(".*.part")]
        assert rounds < 10 or killed, "too quick to be killed at all"
    if FIGURES:
        with open(FIGURES, "a", encoding="utf-8") as file:
            seconds = round(time.monotonic() - start - usual)
            found = {"where": type(seat).__name__, "stage": stage, "killed": killed, "runs": rounds, "seconds": seconds}
            file.write(json.dumps(found) + "\n")


def disturb(
    seat: Here | Hosts,
    begin: Callable[[], subprocess.Popen[str]],
    out: Path,
    usual: float,
    chance: random.Random,
    killed: Counter[str],
) -> None:
    """Run the command to its end, with deaths at random moments, which are counted."""
    while True:
        process = begin()
        while killed.total() < (KILLS or FEW):
            try:
                process.wait(chance.uniform(0, usual))
                break
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                    killed[seat.kill(psutil.Process(process.pid), chance)] += 1
        if (code := process.wait()) == 0:
            return
        assert code == -signal.SIGKILL, out.with_suffix(".said").read_text()
