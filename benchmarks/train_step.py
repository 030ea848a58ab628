"""One training step (loss, gradients, AdamW) of a model of 0.6 million parameters, beside transformers and mambapy.

transformers' Mamba is quadratic in length when it trains: its row takes minutes. The bound: the matrix products.
Usage: python benchmarks/train_step.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mambapy.mamba import Mamba, MambaConfig
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


def main() -> None:
    options = arguments(__doc__, repeats=5)
    results = Results("train_step", options)
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
