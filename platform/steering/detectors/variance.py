"""How much a channel moves."""

from __future__ import annotations

from torch import Tensor

from . import detector
from .observation import Observed


@detector("variance", signed=False)
def variance(seen: Observed) -> Tensor:
    """Variance of the channel's activity over all tokens.

    Sees: loud channels. Blind to: the answer altogether, so it finds decoys as gladly as carriers, and to channels that
    were turned down.
    """
    return seen.variance
