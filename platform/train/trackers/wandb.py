"""Weights & Biases: a run of a project; WANDB_MODE=offline keeps it in OUT/wandb, for `wandb sync` later."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from ..tracker import TrackedRun, tracker


@tracker("wandb")
class Wandb:
    """wandb takes steps in ascending order alone, so that steps that it has are not told again."""

    package: ClassVar[str] = "wandb"

    def __init__(self, run: TrackedRun) -> None:
        known = run.known_as("wandb")
        self._run: Any = import_module("wandb").init(
            project=run.project,
            name=run.name,
            dir=str(run.folder),
            id=known,
            resume=None if known is None else "allow",
            config=dict(run.settings),
        )
        self._has = 0 if known is None else run.told_step
        run.is_known_as("wandb", self._run.id)

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        if step > self._has:
            self._run.log({**numbers, **texts}, step=step)

    def close(self) -> None:
        self._run.finish()
