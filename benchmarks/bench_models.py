"""Forward and training step of a tiny Mamba and Mamba-2, beside transformers' models with the same weights.

Both run in this process, turn by turn, on the same tokens; the median of the ratios is what counts. Prints a table
and writes benchmarks/results/models.json. Usage: python benchmarks/bench_models.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from mplat.models import ModelConfig, build
from transformers import AutoModelForCausalLM
from transformers.utils import logging

RESULTS = Path(__file__).parent / "results" / "models.json"
SHAPES = {
    "mamba": ModelConfig("mamba", vocab_size=1024, d_model=128, n_layers=4, state_size=16),
    "mamba2": ModelConfig("mamba2", vocab_size=1024, d_model=128, n_layers=4, state_size=64, head_dim=32),
}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median seconds of both and the median of the ratios of neighbouring runs, after one warm-up each."""
    ours()
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return {
        "mplat_s": statistics.median(a for a, _ in pairs),
        "transformers_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for arch, config in SHAPES.items():
        ours = build(config, seed=0).eval()
        with tempfile.TemporaryDirectory() as folder:
            theirs = AutoModelForCausalLM.from_pretrained(ours.save(folder)).eval()
        tokens = torch.randint(0, config.vocab_size, (8, 256), generator=torch.Generator().manual_seed(0))
        short = tokens[:2, :64]  # transformers' training path for Mamba is quadratic in length

        def forward(model: torch.nn.Module, text: torch.Tensor) -> torch.Tensor:
            out = model(text)
            return out if isinstance(out, torch.Tensor) else out.logits

        def train_step(model: torch.nn.Module, text: torch.Tensor) -> None:
            loss = F.cross_entropy(forward(model, text)[:, :-1].flatten(0, 1), text[:, 1:].flatten())
            loss.backward()
            model.zero_grad()

        def forward_only(model: torch.nn.Module, text: torch.Tensor) -> None:
            with torch.no_grad():
                forward(model, text)

        for name, run, text in (("forward", forward_only, tokens), ("train step", train_step, short)):
            times = compare(lambda: run(ours, text), lambda: run(theirs, text), options.repeats)  # noqa: B023
            rows.append({"model": arch, "what": name, "rows": len(text), "tokens": text.shape[1], **times})
            sys.stdout.write(
                f"{arch:7} {name:11} {len(text)} x {text.shape[1]:3}: mplat {times['mplat_s'] * 1e3:8.1f} ms, "
                f"transformers {times['transformers_s'] * 1e3:8.1f} ms, ratio {times['ratio']:.1f}\n"
            )
    RESULTS.parent.mkdir(exist_ok=True)
    about = {"torch": torch.__version__, "threads": options.threads, "machine": platform.machine()}
    RESULTS.write_text(json.dumps({"about": about, "rows": rows}, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
