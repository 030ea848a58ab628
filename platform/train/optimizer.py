"""AdamW, or Muon beside it, over a model's parameter groups, and the learning-rate schedule.

The schedule is a pure function of the step, so that nothing of it needs saving. One formula serves all shapes: linear
warm-up reaches the peak on its last step, and the last step of the run is at the floor exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .muon import Muon
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..models import LanguageModel


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0."""
    peak, floor = config.optimizer.learning_rate, config.schedule.floor
    warmup, total = config.warmup_steps, config.total_steps
    if step < warmup:
        return peak * ((step + 1) / warmup)
    if config.schedule.shape == "wsd":
        # at most what warm-up leaves: a long decay must not begin inside the warm-up
        decay = min(round(config.schedule.decay_fraction * total), total - warmup)
        progress = 0.0 if step < total - decay else (step + 1 - (total - decay)) / decay
    else:
        progress = (step + 1 - warmup) / (total - warmup)
    progress = min(progress, 1.0)
    remaining = (1 + math.cos(math.pi * progress)) / 2 if config.schedule.shape == "cosine" else 1 - progress
    return peak * remaining + floor * (1 - remaining)  # exact at both ends


def build_optimizer(model: LanguageModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, or `Muon`, whose groups are the model's own: decayed matrices, and the rest.

    A group may carry `lr_scale`, a factor on the scheduled rate (default 1).
    """
    settings, kind = config.optimizer, torch.optim.AdamW
    groups = model.param_groups(settings.weight_decay)
    if settings.name == "muon":
        groups, kind = with_matrices_apart(model, groups), Muon
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    return kind(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,  # one pass over the weights; the same bits on every run
    )


def with_matrices_apart(model: LanguageModel, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with the matrices of blocks that multiply activations in groups of their own, marked `muon`."""
    decayed = {id(p) for group in model.param_groups(1.0) if group["weight_decay"] for p in group["params"]}
    inside = (p for block in model.blocks for p in block.parameters())
    matrices = {id(p) for p in inside if p.ndim == 2 and id(p) in decayed}
    found: list[dict[str, Any]] = []
    for group in groups:
        for muon in (False, True):
            part = [p for p in group["params"] if (id(p) in matrices) == muon]
            if part or not muon:
                found.append(group | {"params": part, "muon": muon})
    return found


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate for the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
