"""One training step (loss, gradients, AdamW) of a model of 0.6 million parameters, beside transformers and mambapy.

transformers' Mamba is quadratic in length when it trains: its row takes minutes. The bound: the matrix products. The
last rows are the training loop beside its bare step, in processor seconds: batches, schedule, log and all.
Usage: python benchmarks/train_step.py [--repeats 5] [--threads 2] [--only "" | loop]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mambapy.mamba import Mamba, MambaConfig
from mplat.core.observer import Observer
from mplat.train import train
from mplat.train.loss import accumulate_gradients
from mplat.train.optimizer import build_optimizer
from mplat.train.run_folder import RunFolder
from mplat.train.setup import prepare
from mplat.train.train_config import TrainConfig
from peers import SHAPES, logits_of, pair, products, tokens_of
from timing import Results, arguments, compare
from torch import Tensor, nn

BATCH, TIME = 8, 256


class Mambapy(nn.Module):
    """mambapy's blocks between our embedding and tied head."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        config = SHAPES[shape]
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = Mamba(MambaConfig(d_model=config.d_model, n_layers=config.n_layers))
        self.norm = nn.RMSNorm(config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.norm(self.blocks(self.embedding(tokens))), self.embedding.weight)


def step(model: nn.Module, tokens: Tensor) -> Callable[[], object]:
    """A whole step on the same batch again and again."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        logits = logits_of(model, tokens)
        F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


class Clock(Observer):
    """Processor seconds of this process after each step of a run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def report(self, part: str, values: Mapping[str, Any]) -> None:
        if part == "step":
            self.seconds.append(time.process_time())


def loop_and_step(arch: str, repeats: int) -> dict[str, Any]:
    """Median processor seconds of a step of a whole training run on a text, and of the same steps without the loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = random.Random(0).choices("the quick brown fox jumps over a lazy dog".split(), k=200_000)
        for part in range(2):  # a document each; one is held out
            (folder / f"{part}.txt").write_text(" ".join(words if part == 0 else words[:5000]))
        settings = {
            "steps": 4 * repeats + 1, "batch_size": BATCH, "sequence_length": TIME,
            "model": {"arch": arch, "size": "tiny"}, "evaluation": {"every": 0}, "checkpoint": {"every": 0},
            "data": {"source": "text", "text": {"paths": [str(folder / f"{part}.txt") for part in range(2)]}},
        }  # fmt: skip
        config, clock = TrainConfig.model_validate(settings), Clock()
        train(config, folder / "run", observer=clock)
        setup = prepare(config, RunFolder(folder / "run"), dry_run=False)
        model, batches = setup.build_model().train(), [setup.source.batch(i) for i in range(config.total_steps)]
    optimizer = build_optimizer(model, config)
    bare = [time.process_time()]
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        accumulate_gradients(model, batch, BATCH, setup.precision)
        optimizer.step()
        bare.append(time.process_time())
    both = {"loop": clock.seconds, "bare step": bare[1:]}
    seconds = {k: statistics.median(b - a for a, b in itertools.pairwise(times)) for k, times in both.items()}
    return {"turns": 4 * repeats, "seconds": seconds, "ratio": {"bare step": seconds["bare step"] / seconds["loop"]}}


def main() -> None:
    options = arguments(__doc__, repeats=5, only="")
    results = Results("train_step" if not options.only else "train_loop", options)
    for arch in ("mamba", "mamba2"):
        results.add(f"training loop tiny {arch} {BATCH} x {TIME}", loop_and_step(arch, options.repeats))
    if options.only:
        results.write()
        return
    for shape in ("tiny mamba", "tiny mamba2"):
        ours, theirs = pair(shape)
        tokens = tokens_of(shape, BATCH, TIME)
        calls: dict[str, Callable[[], object]] = {"mplat": step(ours, tokens)}
        if shape == "tiny mamba":
            calls["mambapy"] = step(Mambapy(shape), tokens)
        calls["matrix products"] = products(ours, BATCH, TIME, backward=True)
        measured = compare(calls, options.repeats)
        slow = compare({"mplat": calls["mplat"], "transformers": step(theirs, tokens)}, options.repeats, at_most=20.0)
        measured["seconds"]["transformers"] = slow["seconds"]["transformers"]
        measured["ratio"]["transformers"] = slow["ratio"]["transformers"]
        more: dict[str, Any] = {"tokens_per_second": BATCH * TIME / measured["seconds"]["mplat"]}
        more["parameters"] = ours.n_parameters
        results.add(f"training step {shape} {BATCH} x {TIME}", measured, **more)
    results.write()


if __name__ == "__main__":
    main()
