"""SIGKILL at random moments, of the command or of one of its workers: the same command goes on, and no byte differs.

`make chaos` kills fifty times in each stage, MPLAT_KILLS so often. Without, five times in one, without Ray.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from command_stages import STAGES, content, inputs, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("MPLAT_KILLS", "0"))
FIGURES = os.environ.get("MPLAT_KILLS_FIGURES")  # a file that gets a line for each stage
FEW, USUAL = 5, ["interp"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and texts."""
    return inputs(tmp_path_factory.mktemp("inputs"))


def begin(stage: str, place: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"MPLAT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mplat", *words(stage, place, out), "--quiet"]
    if stage != "train":
        command += ["--address", "local", "--actors", "2"] if KILLS else ["--address", "none"]
    with open(out.with_suffix(".said"), "w", encoding="utf-8") as said:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said, text=True)


def victim(command: psutil.Process, chance: random.Random) -> psutil.Process:
    """The command itself, or one of its workers under Ray."""
    children = command.children(recursive=True)
    workers = [child for child in children if child.is_running() and "ShardActor" in " ".join(child.cmdline())]
    return chance.choice([command, *workers])


@pytest.mark.parametrize("stage", list(STAGES) if KILLS else USUAL)
def test_f35_killed_at_any_moment_a_command_ends_with_the_bytes_of_an_undisturbed_one(
    place: Path, tmp_path: Path, stage: str
) -> None:
    start = time.monotonic()
    assert begin(stage, place, tmp_path / "right", tmp_path / "c1").wait() == 0, (tmp_path / "right.said").read_text()
    usual = time.monotonic() - start

    chance, killed, rounds = random.Random(stage), dict.fromkeys(("command", "worker"), 0), 0
    while sum(killed.values()) < (KILLS or FEW):  # a command may be through before it can be killed so often
        rounds += 1
        out = tmp_path / f"out-{rounds}"
        cache = tmp_path / f"cache-{rounds}"
        disturb(partial(begin, stage, place, out, cache), out, usual, chance, killed, most=KILLS or FEW)
        assert content(out) == content(tmp_path / "right") and content(out)
        assert not [path for path in out.rglob(".*.part")]
        assert rounds < 10 or killed["command"], "too quick to be killed at all"
    if FIGURES:
        with open(FIGURES, "a", encoding="utf-8") as file:
            seconds = round(time.monotonic() - start - usual)
            file.write(json.dumps({"stage": stage, "killed": killed, "runs": rounds, "seconds": seconds}) + "\n")


def disturb(
    begin: Callable[[], subprocess.Popen[str]],
    out: Path,
    usual: float,
    chance: random.Random,
    killed: dict[str, int],
    most: int,
) -> None:
    """Run the command to its end, killing it or a worker of it at random moments, and counting that."""
    while True:
        process = begin()
        while sum(killed.values()) < most:
            try:
                process.wait(chance.uniform(0, usual))
                break
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                    chosen = victim(psutil.Process(process.pid), chance)
                    chosen.send_signal(signal.SIGKILL)
                    killed["command" if chosen.pid == process.pid else "worker"] += 1
        if (code := process.wait()) == 0:
            return
        assert code == -signal.SIGKILL, out.with_suffix(".said").read_text()
