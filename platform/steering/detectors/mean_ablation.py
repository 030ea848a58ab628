"""What taking a channel away would cost."""

from __future__ import annotations

from torch import Tensor

from . import detector
from .observation import Observed


@detector("mean_ablation", signed=False)
def mean_ablation(seen: Observed) -> Tensor:
    """Mean loss of the answer's log-probability, nats, if the channel is held at its mean; to first order.

    Sees: channels that carry the answer by what varies in them, a large constant part not counted. Blind to: channels
    that stand in for each other (to first order none of them is missed), what saturates, and channels that were turned
    down, because there is little left to take away.
    """
    return (seen.attribution - seen.mean * seen.slope).mean(0)
