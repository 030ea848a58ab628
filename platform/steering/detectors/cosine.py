"""Whether activity and gradient point the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from . import detector
from .observation import Observed


@detector("cosine", signed=True)
def cosine(seen: Observed) -> Tensor:
    """Cosine, over the tokens of a question, of a channel's activity and the gradient by it; mean over questions.

    Sees: channels whose whole course over the text the answer wants larger or smaller; a factor on the channel cancels,
    and so do long questions. Blind to: how much there is to gain, and channels that matter at few tokens while they are
    busy at many. 0 where a channel is silent or moves nothing.
    """
    size = (seen.energy * seen.sensitivity).sqrt()
    return torch.where(size > 0, seen.attribution / size.where(size > 0, 1.0), 0.0).mean(0)
