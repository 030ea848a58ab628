"""200 prompts of known_1000 through `mplat trace` and `mplat report`, end to end, on a shipped tiny model.

Usage: python benchmarks/trace_known.py --data-dir DIR [--limit 200]

A check of the instrument at the size of the published experiments and not of the model: a tiny model knows none of
these facts, so that all prompts are traced, for what the model says itself (configs/trace/known-tiny.yaml). Writes
times, counts and the strongest average of every site, with its interval as the report has it, to
results/trace_known.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "trace_known.json"


def run(*words: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The object that `mplat WORDS --json` prints, and its seconds: by the clock, and of the processor."""
    start, before = time.perf_counter(), os.times()
    call = [sys.executable, str(ROOT / "cli.py"), *words, "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    seconds = {"clock": round(time.perf_counter() - start, 1), "processor": round(processor, 1)}
    return json.loads(done.stdout), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder of the data files")
    parser.add_argument("--limit", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "trace")
        words = ["--config", "configs/trace/known-tiny.yaml", "--data-dir", options.data_dir, "--out", out]
        traced, tracing = run("trace", *words, "--limit", str(options.limit), "--address", "none")
        _, reporting = run("report", out)
        page = (Path(out) / "report.html").read_text(encoding="utf-8")
        drawn = [site for site in traced["sites"] if f"{site}: average indirect effect by layer and kind" in page]
        assert drawn == traced["sites"], "the report lacks a curve"
    result = {
        "about": "known_1000 in tiny-mamba, all prompts, judged by what the model says itself; one process",
        "prompts": traced["statuses"],
        "tokens": traced["tokens"],
        "restorations": traced["restorations"],
        "noise": traced["noise"],
        "seconds": {"trace": tracing, "report": reporting},
        "total_effect": traced["total_effect"],
        "strongest": traced["strongest"],
    }
    RESULT.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
