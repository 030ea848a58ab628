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
from pathlib import Path

import psutil
import pytest
from interp_jobs import reader
from planted_models import talking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("MPLAT_KILLS", "0"))
FIGURES = os.environ.get("MPLAT_KILLS_FIGURES")  # a file that gets a line for each stage
FEW, USUAL = 5, ["interp"]
TIMES = {"run.json", "ledger.jsonl", "log.jsonl"}  # which say when something was done
TRAIN = ["--arch", "mamba2", "--size", "nano", "--set", "batch_size=2", "--set", "sequence_length=32",
         "--set", "evaluation.prompts_per_level=1", "--set", "schedule.warmup_steps=1", "--set", "steps=400",
         "--set", "checkpoint.every=20"]  # fmt: skip
EVAL = ["--layers", "1", "--set", "steering.sites=[mixer_out]", "--budget", "700000", "--controls", "random",
        "--draws", "1", "--set", "price_limit=2", "--per-level", "3"]  # fmt: skip
TRACE = ["--prompt", "Rome is in the south", "--subject", "Rome", "--samples", "1", "--sites", "resid_post", "--all"]
STAGES: dict[str, Callable[[Path], list[str]]] = {
    "tokenize": lambda place: [str(place / "texts.jsonl"), "--tokenizer", str(place / "talking"), "--set",
                               "shard_mib=0.02"],
    "interp": lambda place: ["--model", str(place / "nano"), "--per-level", "4", "--set", "batch_size=2", "--steps",
                             "activations,attribution"],
    "perplexity": lambda place: [str(place / "texts.jsonl"), "--model", str(place / "nano")],
    "trace": lambda place: ["--model", str(place / "nano"), *TRACE],
    "refine": lambda place: [str(place / "texts.jsonl"), "--teacher", str(place / "talking"), "--reference",
                             str(place / "nano")],
    "eval": lambda place: ["--model", str(place / "talking"), *EVAL],
    "train": lambda place: TRAIN,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and texts."""
    folder = tmp_path_factory.mktemp("inputs")
    reader().save(folder / "nano")
    talking("mamba").save(folder / "talking")
    chance = random.Random(0)
    words = ["Rome", "is", "in", "the", "south", "Bekdok", "lives", "Kanbak", "of", "a"]
    texts = [" ".join(chance.choices(words, k=60)) for _ in range(400)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in TIMES and "work" not in p.relative_to(folder).parts}  # fmt: skip


def begin(words: list[str], out: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"MPLAT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mplat", *words, "--out", str(out), "--quiet"]
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
    words = [stage, *STAGES[stage](place)]
    if stage != "train":
        words += ["--address", "local", "--actors", "2"] if KILLS else ["--address", "none"]
    start = time.monotonic()
    assert begin(words, tmp_path / "right", tmp_path / "c1").wait() == 0, (tmp_path / "right.said").read_text()
    usual = time.monotonic() - start

    chance, killed, rounds = random.Random(stage), dict.fromkeys(("command", "worker"), 0), 0
    while sum(killed.values()) < (KILLS or FEW):  # a command may be through before it can be killed so often
        rounds += 1
        out = tmp_path / f"out-{rounds}"
        disturb(words, out, tmp_path / f"cache-{rounds}", usual, chance, killed, most=KILLS or FEW)
        assert content(out) == content(tmp_path / "right") and content(out)
        assert not [path for path in out.rglob(".*.part")]
        assert rounds < 10 or killed["command"], "too quick to be killed at all"
    if FIGURES:
        with open(FIGURES, "a", encoding="utf-8") as file:
            seconds = round(time.monotonic() - start - usual)
            file.write(json.dumps({"stage": stage, "killed": killed, "runs": rounds, "seconds": seconds}) + "\n")


def disturb(
    words: list[str], out: Path, cache: Path, usual: float, chance: random.Random, killed: dict[str, int], most: int
) -> None:
    """Run the command to its end, killing it or a worker of it at random moments, and counting that."""
    while True:
        process = begin(words, out, cache)
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
