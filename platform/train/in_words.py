"""A training run in words: what it would do, and what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .divergence import skipped_words
from .observe import in_one_line

if TYPE_CHECKING:
    from pathlib import Path

    from .loop import TrainResult
    from .setup import Setup


def plan_words(setup: Setup, parameters: int) -> list[str]:
    """What would be trained on what."""
    active = setup.count_active_parameters()
    of_a_token = "" if active == parameters else f", {active:,} of them used for a token"
    return [*setup.lines(), f"parameters: {parameters:,}{of_a_token}"]


def plan_values(setup: Setup, parameters: int, resume_from: Path | None) -> dict[str, Any]:
    """The same as plain JSON."""
    config = setup.config
    return {
        "parameters": parameters,
        "active_parameters": setup.count_active_parameters(),
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
        f"trained {result.steps:,} steps, {result.tokens:,} tokens: {in_one_line(result.metrics)}",
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
