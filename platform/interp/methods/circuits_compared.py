"""Circuits of kinds of questions compared: within a model, between its halves of the questions, and between models
whose channels are paired by what they hold.

A circuit of a kind is the units of largest loss, `share` of all. Channels of different models have nothing to do with
each other by their numbers: they are paired one to one at equal relative depth by the correlation of their values over
questions (`feature_matching.assign`), which knows no effects, so that effects of unrelated models meet by chance alone.
Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .circuit_overlap import Overlap, overlap, rank_correlation, top_units
from .feature_matching import assign, correlation

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Halved(NamedTuple):
    """Questions of a kind: whole (n,), and for each split its two halves."""

    whole: Mask
    splits: Sequence[tuple[Mask, Mask]]


class Compared(NamedTuple):
    """found: the overlap of circuits by all questions of their kinds, with the rank correlation of the mean effects.
    halves: units shared by circuits that were chosen on different halves, for each split both ways."""

    found: Overlap
    rank_correlation: float | None
    halves: tuple[int, ...]


def circuit_size(share: float, n: int) -> int:
    """Units of a circuit among n, at least one."""
    return max(1, round(share * n))


def circuit(effects: Floats, questions: Mask, size: int) -> NDArray[np.int64]:
    """The units of largest mean loss over `questions` (n,) of effects (n, N)."""
    return top_units(effects[questions].mean(0), size)


def compared(first: Floats, second: Floats, of_first: Halved, of_second: Halved, share: float) -> Compared:
    """Circuits of effects first (n, N) and second (m, N) on the same N units."""
    n = first.shape[1]
    size = circuit_size(share, n)

    def shared(one: Mask, other: Mask) -> Overlap:
        return overlap(circuit(first, one, size).tolist(), circuit(second, other, size).tolist(), n)

    whole = shared(of_first.whole, of_second.whole)
    ranks = rank_correlation(first[of_first.whole].mean(0), second[of_second.whole].mean(0))
    halves = [
        shared(*pair).shared
        for (a, b), (c, d) in zip(of_first.splits, of_second.splits, strict=True) for pair in ((a, d), (b, c))
    ]  # fmt: skip
    return Compared(whole, ranks, tuple(halves))


def between_halves(effects: Floats, of: Halved, share: float) -> Compared:
    """The circuit of a kind by one half of its questions and by the other: how far it is one circuit at all. The
    overlap and the ranks are those of the first split."""
    n = effects.shape[1]
    size = circuit_size(share, n)
    found = [
        overlap(circuit(effects, one, size).tolist(), circuit(effects, other, size).tolist(), n)
        for one, other in of.splits
    ]
    ranks = rank_correlation(*(effects[half].mean(0) for half in of.splits[0]))
    return Compared(found[0], ranks, tuple(each.shared for each in found))


def paired_units(
    first: Floats, second: Floats, places: Sequence[tuple[slice, slice]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Units of two models one to one: values first (n, N) and second (n, M) on the same questions; places: which units
    of the one stand where which of the other do."""
    ones: list[NDArray[np.int64]] = []
    others: list[NDArray[np.int64]] = []
    for of_first, of_second in places:
        rows, columns = assign(np.abs(correlation(first[:, of_first], second[:, of_second])))
        ones.append(rows + of_first.start)
        others.append(columns + of_second.start)
    return np.concatenate(ones), np.concatenate(others)


def random_like(chosen: Sequence[int], places: Sequence[slice], rng: np.random.Generator) -> list[int]:
    """As many other units as `chosen` has in each place; of all its units where too few others are left."""
    taken, found = set(chosen), list[int]()
    for place in places:
        here = [unit for unit in range(place.start, place.stop) if unit in taken]
        others = [unit for unit in range(place.start, place.stop) if unit not in taken]
        pool = others if len(others) >= len(here) else list(range(place.start, place.stop))
        found += sorted(int(unit) for unit in rng.choice(pool, len(here), replace=False)) if here else []
    return found


def by_place(units: Sequence[int], places: Mapping[str, slice]) -> dict[str, list[int]]:
    """Channels of each place's site, by its name, of units that are numbered over all places."""
    found = {name: [unit - at.start for unit in units if at.start <= unit < at.stop] for name, at in places.items()}
    return {name: channels for name, channels in found.items() if channels}
