"""Short training runs shared by the tests of training; not a test file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mplat.core.observer import Observer
from mplat.models import LanguageModel, ModelConfig, build
from mplat.train.data import Batch
from mplat.train.observe import StepReport
from mplat.train.train_config import TrainConfig

TINY_RUN: dict[str, Any] = {
    "seed": 3,
    "steps": 6,
    "batch_size": 4,
    "sequence_length": 48,
    "model": {"arch": "mamba2", "size": "nano"},
    "evaluation": {"every": 0, "prompts_per_level": 2},
    "checkpoint": {"every": 0},
}


def config(**changes: Any) -> TrainConfig:
    """A run of six steps of a nano model; `changes` replace top-level keys, sections are merged."""
    values = dict(TINY_RUN)
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return TrainConfig.model_validate(values)


def small_model(arch: str = "mamba2", dtype: torch.dtype = torch.float64, vocab_size: int = 40) -> LanguageModel:
    """One layer, width 16."""
    shape = ModelConfig(arch, vocab_size=vocab_size, d_model=16, n_layers=1, state_size=4, head_dim=8)
    return build(shape, seed=0, dtype=dtype)


def random_batch(rows: int, length: int, vocab: int = 40, dtype: torch.dtype = torch.float64) -> Batch:
    """Random tokens, weights and resets; every row of another total weight."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, vocab, (rows, length + 1), generator=generator)
    weights = torch.rand(rows, length, generator=generator, dtype=dtype) * torch.arange(1, rows + 1)[:, None]
    reset = torch.rand(rows, length + 1, generator=generator) < 0.2
    return Batch(tokens, weights, reset, torch.rand(rows, length, generator=generator) < 0.3)


class Recorder(Observer):
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def report(self, part: str, values: Mapping[str, Any]) -> None:
        if part == "step":
            self.reports.append(StepReport(**values))
        else:
            self.evaluations.append((values["step"], {k: v for k, v in values.items() if k != "step"}))

    def say(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` by its relative name, but events, which hold the time they were written at."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.match("tensorboard/*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}
