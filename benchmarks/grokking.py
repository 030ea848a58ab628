"""Addition modulo 31 from the first step to the rule: a training, its checkpoints, and what `grokking` says of them.

Usage: python benchmarks/grokking.py [--seeds 1 2] [--fractions 0.3 0.35] [--steps 4000]

Runs `mplat train` with configs/train/modular-addition.yaml at p = 31, one block of Mamba of width 64 in float32 on one
thread, then `mplat interp --steps grokking` over all checkpoints, for each seed of weights and split and each share of
the equations. Writes curves and phases to results/grokking.json. What is claimed: excluded loss rises before held-out
loss falls, also where the training ends before that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "grokking.json"


def run(words: Sequence[str]) -> float:
    """`mplat WORDS`; seconds of the processor."""
    before = os.times()
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *words, "-q"], cwd=ROOT, env=env, check=True)
    after = os.times()
    return round(after.children_user + after.children_system - before.children_user - before.children_system, 1)


def grok(folder: Path, seed: int, steps: int, fraction: float) -> dict[str, Any]:
    """Train in `folder` and look at every checkpoint."""
    out, found = folder / "run", folder / "grokking"
    settings = ["data.modular_addition.p=31", f"data.modular_addition.train_fraction={fraction}", f"steps={steps}"]
    words = ["train", "configs/train/modular-addition.yaml", "--seed", str(seed), "--out", str(out)]
    training = run([*words, *(word for setting in settings for word in ("--set", setting))])
    analysis = run([
        "interp", "--model", str(out / "model"), "--compare", f"{out}@*", "--steps", "grokking", "--address", "none",
        "--questions", str(out / "data" / "questions.jsonl"), "--set", "batch_size=961", "--out", str(found),
        "--cache", str(folder / "cache"),
    ])  # fmt: skip
    curves: dict[int, dict[str, float]] = {}
    for row in pq.read_table(found / "grokking-measures.parquet").to_pylist():
        if row["value"] is not None:
            curves.setdefault(row["step"], {})[row["measure"]] = float(f"{row['value']:.5g}")
    phases = pq.read_table(found / "grokking-phases.parquet").to_pylist()
    waves = pq.read_table(found / "grokking-frequencies.parquet").to_pylist()
    return {
        "p": 31, "seed": seed, "steps": steps, "train_fraction": fraction,
        "processor_seconds": {"training": training, "analysis": analysis},
        "key_frequencies": sorted({row["frequency"] for row in waves if row["key"]}),
        "phases": [{k: v for k, v in row.items() if v is not None} for row in phases],
        "curves": [{"step": step, **values} for step, values in sorted(curves.items())],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.3, 0.35])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="keep the run there; default: a folder that is deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        runs = [
            grok(folder / f"seed-{seed}-of-{fraction:g}", seed, options.steps, fraction)
            for fraction in options.fractions
            for seed in options.seeds
        ]
    options.out.write_text(json.dumps({"runs": runs}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for one in runs:
        begins = {phase["phase"]: phase.get("begins") for phase in one["phases"]}
        accuracy = one["curves"][-1]["held_out_accuracy"]
        print(f"{one['train_fraction']:g}, seed {one['seed']}: {begins}, held-out accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
