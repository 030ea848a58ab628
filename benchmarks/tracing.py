"""Causal tracing of all (layer, position) beside replaying the prompt token by token, one restoration at a time.

The shape of Mamba-130m with random weights, a prompt of 8 tokens, 10 samples of noise on its first three tokens (the
worst case: no position is before the corruption), float32. The replay is timed on whole cells, 10 runs each, whose mean
must be the table's, and extrapolated to all runs. Also the peak memory against the stated budget.
Usage: python benchmarks/tracing.py [--repeats 1] [--threads 2] [--small: tiny Mamba, nothing is written]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent / "side_by_side")

import torch
from mplat.interp.methods.corruption import corrupt
from mplat.interp.methods.memory import DEFAULT_BUDGET
from mplat.interp.methods.table import about
from mplat.interp.tracing import causal_trace
from mplat.models import LanguageModel, Replace, build
from mplat.models.state import ModelState
from peers import SHAPES, tokens_of
from timing import Results, arguments, seconds
from torch import Tensor

LENGTH, SAMPLES, SUBJECT = 8, 10, (0, 3)
SMALL = "--small"


class Replay:
    """Restored runs of one prompt, one sample at a time, one token at a time: what a tracer without `sweep` does."""

    def __init__(self, model: LanguageModel, clean: Tensor) -> None:
        self.model, self.clean = model, clean[None]
        self.corruption = corrupt(model, clean, subject=SUBJECT, samples=SAMPLES)
        self.answer = int(model(self.clean)[0, -1].argmax())
        self.states: list[ModelState] = []  # of the clean run, after each token
        state = None
        for t in range(LENGTH):
            _, state = model(self.clean[:, t : t + 1], state=state, return_state=True)
            self.states.append(state)
        with model.capture("blocks.*.resid_post") as self.held:
            model(self.clean)

    def probability(self, site: str, layer: int, position: int, sample: int) -> float:
        """Of the answer, with the clean value of `h_post` or `resid_post` put into one corrupted run."""
        noise, *_ = self.corruption.edits(self.model, slice(sample, sample + 1))
        noise = type(noise)("embed", noise.value[1:])  # type: ignore[attr-defined]  # without the clean run's row
        name = f"blocks.{layer}.{site}"
        edits = [noise]
        if site == "resid_post":
            edits.append(Replace(name, self.held[name][:, position : position + 1], positions=[position]))
        state, logits = None, torch.empty(0)
        with self.model.edit(*edits):
            for t in range(LENGTH):
                token = self.clean[:, t : t + 1]
                logits, state = self.model(token, state=state, return_state=True, overwrite_state=True)
                if site == "h_post" and t == position:
                    state.layers[layer]["h"] = self.states[t].layers[layer]["h"].clone()
        return float(torch.softmax(logits[0, -1], -1)[self.answer])

    def cell(self, site: str, layer: int, position: int) -> float:
        """The mean probability over samples."""
        return sum(self.probability(site, layer, position, s) for s in range(SAMPLES)) / SAMPLES


def _memory(key: str) -> int:
    """Bytes by the kernel's own count (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(results: Results, model: LanguageModel, shape: str, site: str) -> None:
    clean = tokens_of(shape, 1, LENGTH)[0]

    def trace() -> None:
        nonlocal table
        table = causal_trace(model, clean, subject=SUBJECT, samples=SAMPLES, sites=[site])

    table = causal_trace(model, clean, subject=SUBJECT, samples=2, sites=[site], layers=[0])  # compiles
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    times = [seconds(trace) for _ in range(results.repeats)]
    peak = _memory("VmHWM") - before
    replay = Replay(model, clean)
    assert about(table)["answer"] == str(replay.answer)
    effects = {(r["layer"], r["position"]): r["effect"] for r in table.to_pylist()}
    corrupted = float(about(table)["p_corrupted"])
    depth = model.n_layers
    found: dict[tuple[int, int], float] = {}

    def cells() -> None:
        for layer, position in ((depth // 3, 2), (2 * depth // 3, LENGTH - 2)):
            found[layer, position] = replay.cell(site, layer, position) - corrupted

    replay.probability(site, 0, 0, 0)  # warm
    spent = seconds(cells)
    difference = max(abs(found[cell] - effects[cell]) for cell in found)
    assert difference < 1e-3 * float(about(table)["p_clean"]), f"the trace is off the replay by {difference}"
    runs = depth * LENGTH * SAMPLES
    ours, theirs = sorted(times)[len(times) // 2], spent / (len(found) * SAMPLES) * runs
    measured = {"turns": len(times), "seconds": {"mplat": ours, "replay, extrapolated": theirs}}
    measured["ratio"] = {"replay, extrapolated": theirs / ours}
    results.add(
        f"trace {shape} {site}", measured, runs=runs, replayed_runs=len(found) * SAMPLES, peak_bytes=peak,
        budget_bytes=DEFAULT_BUDGET, relative_difference=difference / float(about(table)["p_clean"]),
    )  # fmt: skip


@torch.inference_mode()
def main() -> None:
    shape = "tiny mamba" if SMALL in sys.argv else "mamba-130m"
    sys.argv = [a for a in sys.argv if a != SMALL]
    results = Results("tracing", arguments(__doc__, repeats=1))
    model = build(SHAPES[shape], seed=0).eval()
    for site in ("h_post", "resid_post"):
        measure(results, model, shape, site)
    if shape == "mamba-130m":
        results.write()


if __name__ == "__main__":
    main()
