"""How much a search does, what its stages read at most, and the steps of its grids.

A plan is made of the questions' lengths alone, before anything is computed with the model (`rungs`); the search
(`halving`) reads no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .answered import Asked, Batch, batches, tokens_of
from .channel_sets import GROWING, POINTERS

ROWS = 24  # of a batch: a step of a fit sees one
SCORED = 12  # of a batch that is scored: lengths differ more among few questions, and padding is read too
SIZES = (0.7, 1.3, 2.0, 2.7, 3.4, 4.1, 4.8)  # log factors of the ladder: 2, 3.7, 7.4, 15, 30, 60 and 120
BETWEEN = (0.4, 0.2)  # log factor between those, ever finer
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of a site's channels: set sizes
ROUNDS = 4  # of growing, at most
BACKWARD = 3  # a forward and a backward pass cost as much as so many forward passes


@dataclass(frozen=True)
class Effort:
    """How much a search does. screening, judging: questions of the early rungs and of the finalists. foreseen: places
    that are tried at all; places, directions: how many survive. trial, choosing, settling: steps of the fits. folds: of
    the cross-fitting."""

    screening: int = 24
    judging: int = 72
    foreseen: int = 40
    places: int = 6
    directions: int = 3
    trial: int = 10
    choosing: int = 30
    settling: int = 40
    folds: int = 2


class Rung(NamedTuple):
    """One stage as it is planned. candidates: at most; questions: each is scored on; tokens: forward tokens in all."""

    name: str
    candidates: int
    questions: int
    tokens: int


def screened(items: Sequence[Asked], count: int) -> list[Asked]:
    """At most `count` of the items, evenly over their lengths."""
    order = sorted(items, key=lambda item: (-item.length, item.id))
    count = min(count, len(order))
    return [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]


def rungs(items: Sequence[Asked], n_places: int, effort: Effort) -> list[Rung]:
    """What a search on `items` costs at most."""
    few, some = screened(items, effort.screening), screened(items, effort.judging)
    each, more, every = tokens_of(few), tokens_of(some), tokens_of(items)
    tried = min(effort.foreseen, n_places)
    kept = min(effort.places, tried)
    # all sizes but the first are tried; shares begin inside of their steps: those of one side, the first of the other
    walk, last = len(SIZES) - 1 + len(SHARES) - 3, 2 + 2 * len(BETWEEN) + BACKWARD
    growing = ROUNDS * (2 * len(GROWING) + 1)
    parts = batches(items, ROWS)
    read = [length_of(items, batch) for batch in parts]
    steps = {
        name: BACKWARD * sum(read[i % len(read)] for i in range(getattr(effort, name)))
        for name in ("trial", "choosing", "settling")
    }
    return [
        Rung("observed", 1, len(items), BACKWARD * every),
        Rung("as it is", 1, len(few) + len(some) + len(items), each + more + every),
        Rung("places", 3 * tried, len(few), 3 * tried * each),
        Rung("directions", kept * len(POINTERS), len(few), kept * len(POINTERS) * each),
        Rung("ladder", effort.directions * walk, len(few), effort.directions * walk * each),
        Rung("grown", growing, len(few), (growing + BACKWARD * ROUNDS) * each),
        Rung("trial", kept + 1, len(some), kept * steps["trial"] + (kept + 1) * more),
        Rung("fitted", 4, len(items), steps["choosing"] + 2 * steps["settling"] + 4 * more + 2 * every),
        Rung("finalists", 5 + last, len(items), 5 * more + last * every),
    ]


def length_of(items: Sequence[Asked], batch: Batch) -> int:
    """Tokens that one forward pass over the batch reads, padding not counted."""
    return sum(items[int(i)].length for i in batch.rows)
