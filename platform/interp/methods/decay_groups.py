"""State coordinates by how fast they forget: the half-life of each coordinate (e, n) in a given run.

    half-life = ln 2 / (mean over tokens of Delta_t[e] |A[e, n]|)   tokens

Delta depends on the token, so the same coordinate is faster in one text than in another: groups belong to a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import UsageError
from .recurrences import Scan

_NAMES = {1: ("all",), 2: ("fast", "slow"), 3: ("fast", "medium", "slow")}


def half_lives(scan: Scan) -> Tensor:
    """Half-life (E, N) in tokens of each state coordinate; rows of a batch count as one text."""
    delta = scan.delta.double().mean((0, 1))
    lives = math.log(2.0) / (delta[:, None] * scan.A.double().abs())  # (U, N or 1)
    return lives.repeat_interleave(scan.unit_width, 0).expand(scan.state_shape)


def decay_groups(scan: Scan, decay: int | Sequence[float]) -> dict[str, Tensor]:
    """Masks (E, N) by name, fastest first, that together cover every coordinate once.

    decay: a number of groups of equal size (equal half-lives stay together, so sizes are as equal as that allows), or
    ascending borders in tokens. Raises UsageError for anything else.
    """
    lives = half_lives(scan)
    if isinstance(decay, int) and not isinstance(decay, bool):
        if decay < 1:
            raise UsageError(f"decay: {decay} groups; ask for at least one")
        ordered = lives.flatten().sort().values
        # the border is the slowest half-life of a group: what equals it belongs there too
        borders = [float(ordered[len(ordered) * k // decay - 1]) for k in range(1, decay)]
        names = _NAMES.get(decay) or tuple(f"{k + 1} of {decay}, fastest first" for k in range(decay))
        inclusive = True
    else:
        borders = [float(b) for b in decay] if isinstance(decay, Sequence) and not isinstance(decay, str) else []
        if not borders or sorted(set(borders)) != borders or borders[0] <= 0 or not math.isfinite(borders[-1]):
            raise UsageError(f"decay {decay!r}: a number of groups, or ascending half-lives in tokens such as (2, 16)")
        edges = [0.0, *borders, math.inf]
        names = tuple(f"{a:g} to {b:g} tokens" for a, b in zip(edges[:-1], edges[1:], strict=True))
        inclusive = False
    table = torch.tensor(borders, dtype=torch.float64, device=lives.device)
    which = torch.bucketize(lives.contiguous(), table, right=not inclusive)
    return {name: which == number for number, name in enumerate(names)}
