"""What a training run tells whoever watches it: sentences, progress, and the numbers themselves.

An observer sees only copies of numbers: watching a run cannot change it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..core.observer import Observer
from ..runtime.table_job import Progress


@dataclass(frozen=True)
class StepReport:
    """One finished step. `step` counts from 1; a number that was not finite is None."""

    step: int
    loss: float | None
    answer_loss: float | None
    grad_norm: float | None
    lr: float
    tokens: int  # trained on so far
    skipped: bool  # the update was left out because loss or gradient was not finite
    # as `speed.Speed`
    tokens_per_second: float
    seconds_left: float
    peak_memory: int
    gpu_peak_memory: int | None
    mfu: float | None


def tell_step(observer: Observer, report: StepReport, total: int) -> None:
    """How far the run is, the loss and what belongs to it."""
    observer.report("step", asdict(report))
    loss = "not finite, step skipped" if report.loss is None else f"{report.loss:.4f}"
    answer = "" if report.answer_loss is None else f" (answers {report.answer_loss:.4f})"
    speed = f"lr {report.lr:.2e}, {report.tokens_per_second:,.0f} tokens/s"
    tell_progress(observer, report.step, total, f"loss {loss}{answer}, {speed}")


def tell_progress(observer: Observer, step: int, total: int, detail: str = "", *, resumed: int = 0) -> None:
    """How far the run is; resumed: steps that an earlier process did."""
    observer.progress(Progress("train", step, total, step, total, resumed, detail=detail))


def tell_evaluation(observer: Observer, step: int, metrics: Mapping[str, float]) -> None:
    """Every number of the held-out set."""
    observer.report("evaluation", {"step": step, **metrics})
    observer.say(f"step {step}: {in_one_line(metrics)}")


def in_one_line(metrics: Mapping[str, float | None]) -> str:
    """`loss 2.1, exact match 0.5`; those of parts of the data, such as `loss/FreeLaw`, are for the log."""
    whole = {name: value for name, value in metrics.items() if "/" not in name}
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in whole.items())


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"
