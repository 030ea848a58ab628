"""What influence maps of many prompts say together: profile and decay over distance, long-range share, tokens.

A map E (n, T) holds the squared influence of each token s on n later ones t. Influence at distance 0 is a token's own
and left out everywhere. Pure functions; intervals are bootstraps over prompts, in their groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .decay_fits import FEWEST, DecayFits, decay_fits

Floats = NDArray[np.float64]


class InfluenceMap(NamedTuple):
    """positions (n,): the tokens t; squares (n, T): |J(t, s)|^2, 0 for s > t. group: of the prompt, for intervals."""

    positions: NDArray[np.int64]
    squares: Floats
    group: str

    @property
    def distance(self) -> NDArray[np.int64]:
        """t - s (n, T), below 0 for later tokens."""
        return self.positions[:, None] - np.arange(self.squares.shape[1], dtype=np.int64)


def long_range_share(of: InfluenceMap, beyond: int) -> float | None:
    """Share of the squared influence of earlier tokens that comes from farther than `beyond`; None where no token has
    an earlier one so far, or none has any influence."""
    far = of.distance > beyond
    having = far.any(1)  # a token too near the beginning has no long range
    total = float(of.squares[having][of.distance[having] > 0].sum())
    return float(of.squares[having][far[having]].sum()) / total if total > 0 else None


class Profile(NamedTuple):
    """distances (K,) and influence (R, K) there: root of the mean square; row 0 of all maps, the others of resamples.
    n (K,): maps that have the distance."""

    distances: NDArray[np.int64]
    influence: Floats
    n: NDArray[np.int64]


def profile(maps: Sequence[InfluenceMap], *, seed: int, n_resamples: int) -> Profile:
    """Over the distances from 1 that at least half of the maps have. A resample draws groups of prompts anew; a
    distance that none of the drawn has is NaN there."""
    widest = max(of.squares.shape[1] for of in maps)
    sums, counts = np.zeros((len(maps), widest)), np.zeros((len(maps), widest))
    for i, of in enumerate(maps):
        inside = of.distance >= 0
        np.add.at(sums[i], of.distance[inside], of.squares[inside])
        np.add.at(counts[i], of.distance[inside], 1.0)
    n: NDArray[np.int64] = (counts > 0).sum(0)
    kept = np.flatnonzero((2 * n >= len(maps)) & (np.arange(widest, dtype=np.int64) > 0))
    groups = {group: number for number, group in enumerate(dict.fromkeys(of.group for of in maps))}
    member = np.array([groups[of.group] for of in maps])
    drawn = np.random.default_rng(seed).integers(0, len(groups), (n_resamples, len(groups)))
    often = np.stack([(drawn == group).sum(1) for group in range(len(groups))], 1)
    weights = np.concatenate([np.ones((1, len(maps))), often[:, member]])
    with np.errstate(invalid="ignore", divide="ignore"):
        return Profile(kept, np.sqrt(weights @ sums[:, kept] / (weights @ counts[:, kept])), n[kept])


def fitted(of: Profile, beyond: int) -> tuple[NDArray[np.int64], DecayFits] | None:
    """Both decays fitted to all rows of a profile that have a value, at its distances farther than `beyond`; None for
    fewer than FEWEST of these with any influence."""
    chosen = (of.distances > beyond) & (of.influence[0] > 0)
    if chosen.sum() < FEWEST:
        return None
    curves = of.influence[:, chosen]
    whole = np.isfinite(curves).all(1) & (np.where(np.isnan(curves), 0.0, curves) > 0).all(1)
    return of.distances[chosen], decay_fits(of.distances[chosen], curves[whole])


class Connection(NamedTuple):
    """s -> t: influence, its share of the long-range influence on t (squares), and how many times the even share."""

    t: int
    s: int
    influence: float
    share: float
    times_even: float


def connections(of: InfluenceMap, beyond: int, fewest: int = 5) -> list[Connection]:
    """The strongest long-range connection to each of the positions that have at least `fewest` earlier tokens so far,
    by share, largest first."""
    result: list[Connection] = []
    for row, t in enumerate(of.positions.tolist()):
        far = of.squares[row, : max(0, t - beyond)]
        if len(far) >= fewest and far.sum() > 0:
            s = int(far.argmax())
            share = float(far[s] / far.sum())
            result.append(Connection(t, s, float(far[s]) ** 0.5, share, share * len(far)))
    return sorted(result, key=lambda one: (-one.share, one.t))


def token_weights(of: InfluenceMap, beyond: int) -> Floats:
    """(T,): mean over the positions that a token is far from of its share of the long-range influence on them, over the
    even share; NaN for tokens that none is far from."""
    far = of.distance > beyond
    totals = np.where(far, of.squares, 0.0).sum(1, keepdims=True)
    used = far & (totals > 0) & (far.sum(1, keepdims=True) >= 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        times = np.where(used, of.squares / totals * far.sum(1, keepdims=True), 0.0)
        return times.sum(0) / used.sum(0)
