"""Which modes of a modal filter are meant: those of the chosen channels whose half-life lies in a band."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from . import Target
from .options import number

#: options of operators on modes
BAND = {
    "low?": "the shortest half-life of the modes that are changed, in tokens",
    "high?": "the longest",
}


class Modes(NamedTuple):
    """rate (n, S): -log |pole| of each mode, by which it decays at every token; meant (n, S) bool."""

    rate: Tensor
    meant: Tensor


def modes(target: Target) -> Modes:
    """Of the target's channels. A half-life is ln 2 / rate. Raises UsageError where no mode lies in the band."""
    (filters,) = (of for of in target.block.recurrences(torch.float64) if of.kind == "modal")
    rate = -filters.A.real
    rate = rate if target.channels is None else rate[list(target.channels)]
    low, high = number(target, "low", 0.0), number(target, "high", math.inf)
    lives = math.log(2.0) / rate
    meant = (lives >= low) & (lives <= high)
    if not bool(meant.any()):
        raise UsageError(
            f"no mode of {target.site} has a half-life of {low:g} to {high:g} tokens; those of its channels lie "
            f"between {float(lives.min()):.3g} and {float(lives.max()):.3g}"
        )
    return Modes(rate, meant)
