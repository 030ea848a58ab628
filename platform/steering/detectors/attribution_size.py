"""The size of the mean attribution."""

from __future__ import annotations

from torch import Tensor

from . import detector
from .observation import Observed


@detector("attribution_size", signed=False)
def attribution_size(seen: Observed) -> Tensor:
    """|mean over questions of sum over tokens of activation times gradient|, nats.

    Sees: loud channels that carry the answer. Blind to: which way a channel should go, and channels that were turned
    down, because it shrinks with them.
    """
    return seen.attribution.mean(0).abs()
