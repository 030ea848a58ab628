"""How sure the sign of the attribution is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import detector
from .observation import Observed


@detector("attribution_t", signed=True)
def attribution_t(seen: Observed) -> Tensor:
    """Mean over standard error, over questions, of sum over tokens of activation times gradient.

    Sees: channels that all questions want larger (or smaller), however quiet they are: a factor on the channel cancels.
    Blind to: how much there is to gain, and channels that help some questions and harm others. Undefined for one
    question, where it is 0; 0 also for a channel that never moves the answer.
    """
    n = len(seen.attribution)
    mean = seen.attribution.mean(0)
    if n < 2:
        return torch.zeros_like(mean)
    error = seen.attribution.std(0) / math.sqrt(n)
    return torch.where(error > 0, mean / error.where(error > 0, 1.0), 0.0)
