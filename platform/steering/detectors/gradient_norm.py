"""How much the answer depends on a channel."""

from __future__ import annotations

from torch import Tensor

from . import detector
from .observation import Observed


@detector("gradient_norm", signed=False)
def gradient_norm(seen: Observed) -> Tensor:
    """Root of the sum over tokens of the squared gradient of the answer's log-probability; mean over questions.

    Sees: channels that the layers behind listen to, quiet ones too: at an output that was turned down it is as large as
    before. Blind to: direction, and whether the channel ever says anything.
    """
    return seen.sensitivity.sqrt().mean(0)
