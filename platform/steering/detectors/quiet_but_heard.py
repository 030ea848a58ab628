"""Channels that say little to layers that listen closely."""

from __future__ import annotations

import torch
from torch import Tensor

from . import detector
from .observation import Observed


@detector("quiet_but_heard", signed=False)
def quiet_but_heard(seen: Observed) -> Tensor:
    """Logarithm of the gradient's size over the activity's size, both over all tokens of all questions.

    Sees: channels that were turned down by a factor, by its logarithm twice where the layers behind were not. Blind to:
    direction, and whether turning a channel up helps: a channel that was always quiet looks the same. Channels that are
    silent or move nothing stand last, at minus infinity.
    """
    energy, sensitivity = seen.energy.sum(0), seen.sensitivity.sum(0)
    known = (energy > 0) & (sensitivity > 0)
    ratio = sensitivity.where(known, 1.0).log() - energy.where(known, 1.0).log()
    return torch.where(known, 0.5 * ratio, -torch.inf)
