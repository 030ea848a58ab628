"""Side by side timing: the contestants of a row run turn by turn in one process, and medians of ratios are kept.

A benchmark is a script that calls `compare` for each row and `Results.write` at the end. Every row has the seconds of
each contestant, the ratio of a peer to mplat (above 1: mplat is faster) and, where there is one, the bound.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parents[1] / "results"
Run = Callable[[], object]


def arguments(description: str | None, repeats: int, **more: int | str) -> argparse.Namespace:
    """The options that all benchmarks have, and more with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each row")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the kernels")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def seconds(run: Run) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(contestants: Mapping[str, Run], repeats: int, *, at_most: float = 60.0) -> dict[str, Any]:
    """Median seconds by name, and by peer the median over turns of its time over that of the first contestant.

    Each runs once to warm up, then all in turn, `repeats` times or until `at_most` seconds are spent.
    """
    for run in contestants.values():
        run()
    turns: list[dict[str, float]] = []
    begun = time.perf_counter()
    while len(turns) < repeats and (not turns or time.perf_counter() - begun < at_most):
        turns.append({name: seconds(run) for name, run in contestants.items()})
    first, *others = contestants
    return {
        "turns": len(turns),
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in contestants},
        "ratio": {name: statistics.median(turn[name] / turn[first] for turn in turns) for name in others},
    }


class Results:
    """Rows of one benchmark: printed as they come, written at the end."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.repeats = name, int(options.repeats)
        self.about = {
            "torch": torch.__version__,
            "threads": options.threads,
            "repeats": options.repeats,
            "machine": f"{platform.machine()}, {_processor()}",
        }
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, measured: Mapping[str, Any], **more: Any) -> None:
        """Keep and print a row."""
        self.rows.append({"what": what, **measured, **more})
        times = ", ".join(f"{name} {value * 1e3:,.1f} ms" for name, value in measured["seconds"].items())
        ratios = ", ".join(f"{value:.2f}x {name}" for name, value in measured["ratio"].items())
        extra = "; ".join(f"{key} {value:,.4g}" for key, value in more.items() if isinstance(value, (int, float)))
        sys.stdout.write(f"{what}: {times}  ->  {ratios}{'; ' + extra if extra else ''}\n")
        sys.stdout.flush()

    def write(self) -> None:
        """benchmarks/results/<name>.json"""
        FOLDER.mkdir(exist_ok=True)
        text = json.dumps({"about": self.about, "rows": self.rows}, indent=2, allow_nan=False)
        (FOLDER / f"{self.name}.json").write_text(text + "\n")


def _processor() -> str:
    """What the CPU can do, in words."""
    able = torch.cpu.get_capabilities()
    units = [label for key, label in (("amx_bf16", "AMX"), ("avx512_f", "AVX-512"), ("avx2", "AVX2")) if able.get(key)]
    return " and ".join(units) or "no vector units known"
