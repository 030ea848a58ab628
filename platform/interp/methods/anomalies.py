"""What should not be there: state sinks, massive activations, dead channels, gates in the flat part. Pure functions.

- A *state sink* is a token that later ones keep reading, whatever they are and however far away: the share of each
  unit's |read weights| (`selectivity.read_weights`) that falls on one token of a text's first half, mean over units and
  over `QUERIES` tokens of its second half. Recency alone gives no such token, because its share passes on.
- A *massive activation* is at least `least` in size and at least `ratio` times the median size of the site's values in
  the text (Sun et al., arXiv 2402.17762: 100 and 1000).
- A *dead channel* never moves: its range over all tokens is at most `DEAD` of the widest range at the site.
- *Flat*: softplus and sigmoid pass on less than the share `flat` of a change of their input. The slope of Delta =
  softplus(u) is sigmoid(u) = 1 - exp(-Delta), and of an averaging recurrence 1 - exp(-Delta) is what it writes: closed
  below `flat`; above 1 - flat it is wide open, where softplus is linear and an average forgets all. Of silu(z), closed
  is sigmoid(z) < flat, open sigmoid(z) > 1 - flat.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .recurrences import LayerRecurrence
from .selectivity import read_weights
from .typed_tensors import ints

QUERIES = 6
DEAD = 1e-9


class Sink(NamedTuple):
    """The token of a text's first half that is read most: its position, its share, and the share of any token if all
    were read alike (mean over the reading tokens)."""

    position: int
    share: float
    uniform: float


class Peak(NamedTuple):
    """The largest |value| of a site in a text, where it is, the median |value|, and how many are massive."""

    value: float
    position: int
    channel: int
    median: float
    massive: int


class Counted(NamedTuple):
    """Values of a gate in a text: how many are closed, how many open, of how many."""

    closed: int
    open: int
    total: int


def sink_of(decay: LayerRecurrence, delta: Tensor, B: Tensor, C: Tensor) -> Sink | None:
    """delta (T, U), B, C (T, G, N) of one text; None for fewer than four tokens and where nothing is read."""
    length = len(delta)
    half = length // 2
    if half < 2:
        return None
    queries = [half + (length - 1 - half) * i // (QUERIES - 1) for i in range(QUERIES)]
    received = torch.zeros(half, dtype=torch.float64)
    for query in queries:
        until = slice(0, query + 1)
        size = read_weights(decay, delta[until].double(), B[until].double(), C[until].double()).abs()
        total = size.sum(0)
        if not bool((total > 0).any()):
            return None
        received += (size[:half, total > 0] / total[total > 0]).mean(1) / len(queries)
    position = int(received.argmax())
    return Sink(position, float(received[position]), sum(1 / (query + 1) for query in queries) / len(queries))


def peak_of(x: Tensor, *, least: float, ratio: float) -> Peak:
    """x (T, C) of one text."""
    size = x.double().abs()
    median = float(size.median())
    at = int(size.argmax())
    massive = int(((size >= least) & (size >= ratio * median)).sum())
    return Peak(float(size.flatten()[at]), at // x.shape[1], at % x.shape[1], median, massive)


def dead_channels(low: Tensor, high: Tensor) -> list[int]:
    """Channels that never move, of the least and the largest value (C,) of each; all of them where none moves."""
    moved = high - low
    return ints((moved <= DEAD * moved.max()).nonzero()[:, 0])


def opened(values: Tensor, kind: str, flat: float) -> Counted:
    """values: Delta ("softplus"), or what stands before a sigmoid ("sigmoid"), of any shape."""
    slope = -torch.expm1(-values.double()) if kind == "softplus" else torch.sigmoid(values.double())
    return Counted(int((slope < flat).sum()), int((slope > 1 - flat).sum()), slope.numel())
