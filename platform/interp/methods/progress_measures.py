"""What a checkpoint of modular addition has computed and what it has remembered, beside as many other frequencies.

The control asks the same of sets of frequencies that are not key ones, of equal number: a loss that also rises without
those does not speak for a circuit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .addition import NO_SIDES, Addition
from .fourier import frequencies, progress_losses, sum_waves
from .sparsity_measures import gini

FOURIER = ("restricted_loss", "restricted_loss_control", "excluded_loss", "excluded_loss_control", "embedding_gini",
           "logit_gini")  # fmt: skip


class ProgressMeasures(NamedTuple):
    """values: by measure. missing: why others have none."""

    values: Mapping[str, float]
    missing: Mapping[str, str]


def control_sets(p: int, keys: Sequence[int], draws: int, seed: int) -> list[list[int]]:
    """`draws` sets of frequencies beside the key ones, of as many each; none where there are not so many."""
    others = [k for k in frequencies(p) if k not in keys]
    rng = np.random.default_rng(seed)
    return (
        [sorted(rng.permutation(others)[: len(keys)].tolist()) for _ in range(draws)]
        if len(others) >= len(keys)
        else []
    )


def progress_measures(
    logits: Tensor, addition: Addition, keys: Sequence[int], control: Sequence[Sequence[int]]
) -> ProgressMeasures:
    """Of logits (p, p, p). control: sets of other frequencies, whose losses are averaged."""
    sides = addition.trained
    trained = torch.ones(addition.p, addition.p, dtype=torch.bool) if sides is None else sides
    values = {"logit_gini": float(gini(sum_waves(logits).power.sqrt()))}
    missing: dict[str, str] = {}
    every = {"": [progress_losses(logits, trained, keys)]}
    every["_control"] = [progress_losses(logits, trained, chosen) for chosen in control]
    for name, losses in every.items():
        if not losses:
            reason = "more than half of the frequencies are key ones"
            missing |= dict.fromkeys((f"restricted_loss{name}", f"excluded_loss{name}"), reason)
            continue
        values[f"restricted_loss{name}"] = _mean([one.restricted for one in losses])
        if sides is None:
            missing[f"excluded_loss{name}"] = NO_SIDES
        else:
            values[f"excluded_loss{name}"] = _mean([one.excluded for one in losses if one.excluded is not None])
    return ProgressMeasures(values, missing)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
