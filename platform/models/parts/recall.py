"""What the recall initialisations of the mixers share: taps that see two tokens, and a step that forgets slowly.

See `Mixer.reset_to_recall` for the idea and its source. The figures were chosen on the facts world: with them a Mamba-2
of half a million parameters looks values up after 800 steps of 768 tokens (docs/models.md has the comparison).
"""

from __future__ import annotations

import math

import torch
from torch import nn

RECALL_GAIN = 2.0  # of the key projection, over 1/sqrt(d): large enough that different keys differ after silu
RECALL_STEP = 0.02  # Delta at the start; with A = -1 the state loses a factor e in 50 tokens
_LATEST, _BEFORE = 1.0, 0.7  # unequal, so that "a b" and "b a" are different keys


@torch.no_grad()
def recall_taps(conv: nn.Conv1d, channels: slice, shift: int) -> None:
    """Let `channels` see the token `shift` steps back and the one before it, and nothing else."""
    taps = conv.weight[channels, 0]
    now = taps.shape[-1] - 1 - shift
    taps.zero_()
    taps[:, max(now, 0)] = _LATEST
    if now > 0:
        taps[:, now - 1] = _BEFORE
    if conv.bias is not None:
        conv.bias[channels] = 0.0


def inverse_softplus(value: float) -> float:
    """x with softplus(x) = value."""
    return math.log(math.expm1(value))
