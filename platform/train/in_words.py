"""A training run in words: what it would do, what it does while it goes on, what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..runtime.stage import Observer
from ..runtime.table_job import Progress
from .divergence import skipped_words

if TYPE_CHECKING:
    from pathlib import Path

    from .loop import TrainResult
    from .observe import StepReport
    from .setup import Setup


class InWords:
    """Tells an observer of runs, in sentences and progress, what a training run tells its own (`observe.Observer`)."""

    def __init__(self, observer: Observer) -> None:
        self._observer, self._steps = observer, 0
        self.note, self.warn = observer.say, observer.warn

    def begin(self, first_step: int, total_steps: int, lines: list[str]) -> None:
        """The lines, then progress from the step at which this process begins."""
        for line in lines:
            self._observer.say(line)
        self._steps = total_steps
        self._count(first_step)

    def step(self, report: StepReport) -> None:
        """The loss and what belongs to it."""
        loss = "not finite, step skipped" if report.loss is None else f"{report.loss:.4f}"
        answer = "" if report.answer_loss is None else f" (answers {report.answer_loss:.4f})"
        speed = f"lr {report.lr:.2e}, {report.tokens_per_second:,.0f} tokens/s"
        self._count(report.step, f"loss {loss}{answer}, {speed}")

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Every number."""
        self._observer.say(f"step {step}: {_metrics(metrics)}")

    def _count(self, step: int, detail: str = "") -> None:
        self._observer.progress(Progress("train", step, self._steps, step, self._steps, 0, detail=detail))


def plan_words(setup: Setup, parameters: int) -> list[str]:
    """What would be trained on what."""
    return [*setup.lines(), f"parameters: {parameters:,}"]


def plan_values(setup: Setup, parameters: int, resume_from: Path | None) -> dict[str, Any]:
    """The same as plain JSON."""
    config = setup.config
    return {
        "parameters": parameters,
        "steps": config.total_steps,
        "tokens": config.total_steps * config.tokens_per_step,
        "resume_from": str(resume_from) if resume_from else None,
        "config": config.resolved().model_dump(mode="json"),
    }


def result_words(result: TrainResult) -> list[str]:
    """How far it came, and where the model and the log are."""
    skipped = [skipped_words(result.skipped_steps, result.steps)] if result.skipped_steps else []
    digest = "" if result.model_digest is None else f" (digest {result.model_digest[:12]})"
    return [
        f"trained {result.steps:,} steps, {result.tokens:,} tokens: {_metrics(result.metrics)}",
        *skipped,
        f"model: {result.model_folder or 'not exported'}{digest}",
        f"log and loss curve: {result.out}",
    ]


def result_values(result: TrainResult) -> dict[str, Any]:
    """The same as plain JSON."""
    return {
        "out": str(result.out),
        "model": None if result.model_folder is None else str(result.model_folder),
        "model_digest": result.model_digest,
        "steps": result.steps,
        "tokens": result.tokens,
        "skipped_steps": result.skipped_steps,
        "loss": result.final_loss,
        "metrics": result.metrics,
        "best_step": result.best_step,
        "best_score": result.best_score,
        "fault": result.fault,
    }


def _metrics(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in metrics.items())


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"
