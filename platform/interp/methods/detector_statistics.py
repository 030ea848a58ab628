"""Detectors of channels beside what chance does: intervals over texts, shuffled channels, agreement with each other.

A detector (`mplat.steering.detectors`) gives every channel of a site a score. Groups of questions (what several have
in common) are resampled whole: the interval of a score, and how often the channel is among the k largest. The null
deals a question's channels anew, in every group in an order of its own: what is left is how large the largest score
gets where no channel is the same one from text to text (max-T, Westfall and Young 1993). A small p says that a channel
stands out in text after text, not that it matters or is damaged.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations
from math import comb, isfinite
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import UsageError
from ...scoring.statistics import Resampling
from ...steering.detectors import find_detector, observed
from ..engine.columns import ranks
from .layer_signals import members_of
from .typed_tensors import tensor_of

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """A detector at a site with C channels. score (C,); key (C,): what channels are ordered by, |score| of a signed
    detector; low, high (C,): of the score; in_top (C,): share of resamples with the channel among the k largest; p
    (C,): of so large a key among shuffled channels, corrected for the C channels. low, high and in_top are None for
    fewer than two groups."""

    detector: str
    score: Floats
    key: Floats
    low: Floats | None
    high: Floats | None
    in_top: Floats | None
    p: Floats


class Agreement(NamedTuple):
    """Two detectors at a site. rho: Spearman's correlation of their keys over channels, None where one has no ranks;
    low, high: over resampled texts; overlap: channels among the k largest of both; expected: by chance, k^2 / C;
    p: one-sided, hypergeometric."""

    first: str
    second: str
    rho: float | None
    low: float | None
    high: float | None
    overlap: int
    expected: float
    p: float


def compare_detectors(
    sums: Tensor, groups: Sequence[Hashable], names: Sequence[str], *, top: int, how: Resampling, draws: int
) -> tuple[list[Scored], list[Agreement]]:
    """sums (n, 6, C): of n questions at one site, as `steering.detectors.sums_of` makes them. groups (n,). top: k.

    Raises UsageError where k does not lie between 1 and C, or groups and questions differ in number.
    """
    n, _, channels = sums.shape
    if not 1 <= top <= channels or len(groups) != n:
        raise UsageError(f"{top} of {channels} channels, {len(groups)} groups of {n} questions: these do not fit")
    score, key = _scores(sums, names)
    members = [tensor_of(of) for of in members_of(groups)]
    rng = np.random.default_rng(how.seed)
    largest = np.stack([_scores(_dealt_anew(sums, members, rng), names)[1].max(1) for _ in range(draws)])
    p = (1 + (largest[:, :, None] >= key).sum(0)) / (1 + draws)
    correlations = _rank_correlations(key)
    if len(members) < 2:
        found = [Scored(name, score[i], key[i], None, None, None, p[i]) for i, name in enumerate(names)]
        return found, [_agreement(names, key, pair, correlations, None, top) for pair in _pairs(names)]
    resampled = [_scores(sums[chosen], names) for chosen in _resamples(members, how.resamples, rng)]
    again, keys = (np.stack([draw[i] for draw in resampled]) for i in range(2))
    tail = (1 - how.confidence) / 2
    # no interpolation: a score may be minus infinity
    low = np.quantile(again, tail, axis=0, method="lower")
    high = np.quantile(again, 1 - tail, axis=0, method="higher")
    in_top = np.mean([[ranks(of) <= top for of in draw] for draw in keys], 0)
    found = [Scored(name, score[i], key[i], low[i], high[i], in_top[i], p[i]) for i, name in enumerate(names)]
    bounds = np.nanquantile([_rank_correlations(draw) for draw in keys], [tail, 1 - tail], axis=0)
    return found, [_agreement(names, key, pair, correlations, bounds, top) for pair in _pairs(names)]


def overlap_p(overlap: int, top: int, channels: int) -> float:
    """P(two random sets of `top` of `channels` share at least `overlap`), hypergeometric."""
    ways = sum(comb(top, i) * comb(channels - top, top - i) for i in range(overlap, top + 1))
    return ways / comb(channels, top)


def _scores(sums: Tensor, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Scores and keys (detectors, C)."""
    seen = observed("", sums)
    score = torch.stack([find_detector(name)(seen) for name in names])
    signed = torch.tensor([find_detector(name).signed for name in names])
    return score.numpy(), torch.where(signed[:, None], score.abs(), score).numpy()


def _resamples(members: Sequence[Tensor], count: int, rng: np.random.Generator) -> Iterator[Tensor]:
    for _ in range(count):
        yield torch.cat([members[i] for i in rng.integers(0, len(members), len(members))])


def _dealt_anew(sums: Tensor, members: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
    """The channels of each group in an order of their own."""
    channels = sums.shape[2]
    orders = tensor_of(rng.permuted(np.tile(np.arange(channels), (len(members), 1)), axis=1))
    order = torch.empty(len(sums), channels, dtype=torch.int64)
    for of, its in zip(members, orders, strict=True):
        order[of] = its
    return sums.gather(2, order[:, None].expand_as(sums))


def _rank_correlations(keys: Floats) -> Floats:
    """Spearman's, (detectors, detectors); NaN for one whose keys are all equal."""
    by_rank = np.stack([_average_ranks(of) for of in keys])
    centred = by_rank - by_rank.mean(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore"):
        return centred @ centred.T / np.outer(lengths, lengths)


def _average_ranks(values: Floats) -> Floats:
    """Ranks (n,), equal values at the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


def _pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    return list(combinations(range(len(names)), 2))


def _agreement(
    names: Sequence[str], key: Floats, pair: tuple[int, int], rho: Floats, bounds: Floats | None, top: int
) -> Agreement:
    first, second = ({*np.flatnonzero(ranks(key[i]) <= top).tolist()} for i in pair)
    overlap, channels = len(first & second), key.shape[1]
    ends = (None, None) if bounds is None else (float(bounds[0][pair]), float(bounds[1][pair]))
    value, low, high = (v if v is not None and isfinite(v) else None for v in (float(rho[pair]), *ends))
    expected, p = top * top / channels, overlap_p(overlap, top, channels)
    return Agreement(names[pair[0]], names[pair[1]], value, low, high, overlap, expected, p)
