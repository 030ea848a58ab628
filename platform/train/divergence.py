"""Whether a finished run is worth anything: finite weights, finite held-out numbers, and steps that were really taken.

Pure functions of a model and numbers. They judge and word the judgement; what follows from it is the loop's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from .train_config import TrainConfig

MOST_SKIPPED = 0.5  # share of steps that may be skipped before a run counts as not trained


def what_is_not_finite(model: nn.Module, dtype: torch.dtype, metrics: Mapping[str, float]) -> list[str]:
    """Clauses that name the weights, as they would be stored in `dtype`, and the held-out numbers; empty where none."""
    found = []
    weights = [name for name, p in model.named_parameters() if not bool(p.detach().to(dtype).isfinite().all())]
    if weights:
        more = f" and {len(weights) - 1} more tensors" if len(weights) > 1 else ""
        found.append(f"the weights are not finite in {str(dtype).removeprefix('torch.')} ({weights[0]}{more})")
    numbers = [name.replace("_", " ") for name, value in metrics.items() if not math.isfinite(value)]
    if numbers:
        found.append(f"the held-out {', '.join(numbers)} {'is' if len(numbers) == 1 else 'are'} not finite")
    return found


def skipped_words(skipped: int, steps: int) -> str:
    """`1 of 100 steps was skipped because its loss or gradient was not finite`, as a clause."""
    verb, whose = ("was", "its") if skipped == 1 else ("were", "their")
    return f"{skipped:,} of {steps:,} steps {verb} skipped because {whose} loss or gradient was not finite"


def fault(clauses: list[str], skipped: int, steps: int) -> str | None:
    """Why the run failed although it came to its end; None where it did not fail.

    A few skipped steps are no failure. `clauses` are those of `what_is_not_finite`.
    """
    if not clauses and skipped <= MOST_SKIPPED * steps:
        return None
    counted = [skipped_words(skipped, steps)] if skipped else []
    return "training diverged: " + " and ".join(counted + clauses)


def advice(config: TrainConfig) -> str:
    """What to change."""
    steps = [
        f"lower optimizer.learning_rate ({config.optimizer.learning_rate:g})",
        *(["set dtype=float32"] if config.dtype != "float32" else []),
        "lengthen schedule.warmup_steps",
    ]
    return ", or ".join([", ".join(steps[:-1]), steps[-1]])
