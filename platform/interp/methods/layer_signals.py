"""What stands out among layers: effective rank, spread over channels and gradient of a site, layer beside layer.

- `effective_rank`: exp of the entropy of the singular values, over their sum, of one token's centred vectors of each
  text (n, C) (Roy and Vetterli 2007), so at most n - 1;
- `entropy`: of the channels' shares of the energy over all tokens, over ln C: 1 where all are equally loud;
- `gradient`: natural logarithm of the root of the summed squared gradient of the answers' log-probability.

A layer's *spike* is its value less the mean of its neighbours'. Intervals: texts resampled in groups, shifted so that
the resamples' mean is the estimate, because a sample with repetitions has a lower rank. The null deals every channel's
values anew to the layers: p is the share of such models, with the same channels but without layers, whose spike at this
layer is as large.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...scoring.statistics import Resampling

Floats = NDArray[np.float64]
MEASURES = ("effective_rank", "entropy", "gradient")


class Signal(NamedTuple):
    """One measure over L layers, each (L,), NaN where there is none. low to high: of the value; spike, with its
    interval; p of the spike, two-sided. Bounds are None for fewer than two groups."""

    measure: str
    value: Floats
    low: Floats | None
    high: Floats | None
    spike: Floats
    spike_low: Floats | None
    spike_high: Floats | None
    p: Floats


def signals(
    vectors: Floats, energy: Floats, sensitivity: Floats, groups: Sequence[Hashable], *, how: Resampling, draws: int
) -> list[Signal]:
    """vectors (L, n, C): one token of each of n texts; energy, sensitivity (L, n, C): sums of squares over the tokens
    of activity and gradient. groups (n,). Raises UsageError for fewer than two layers or other shapes.
    """
    layers, n, channels = map(int, vectors.shape)
    if layers < 2 or energy.shape != vectors.shape or sensitivity.shape != vectors.shape or len(groups) != n:
        raise UsageError(f"a spike needs two layers and texts of equal number, not arrays of {vectors.shape}")
    centred = vectors - vectors.mean(1, keepdims=True)
    size = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    centred = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    grams = centred @ centred.transpose(0, 2, 1)
    found = _measured(grams, energy.sum(1), sensitivity.sum(1))
    rng = np.random.default_rng(how.seed)
    dealt: list[Floats] = []
    for _ in range(draws):
        numbers: NDArray[np.int64] = np.arange(layers)[:, None].repeat(channels, 1)
        order = rng.permuted(numbers, axis=0)
        x = np.take_along_axis(centred, order[:, None], 0)
        loud, heard = (np.take_along_axis(v.sum(1), order, 0) for v in (_shares(energy), sensitivity))
        dealt.append(spikes(_measured(x @ x.transpose(0, 2, 1), loud, heard)))
    spike = spikes(found)
    # rounding makes no equal spike less extreme
    p = (1 + (np.abs(dealt) >= np.abs(spike) - 1e-12).sum(0)) / (1 + draws)
    members = members_of(groups)
    bounds: tuple[Floats, Floats] | None = None
    if len(members) > 1:
        again: list[Floats] = []
        for _ in range(how.resamples):
            drawn: list[int] = rng.integers(0, len(members), len(members)).tolist()
            chosen = np.concatenate([members[i] for i in drawn])
            part = grams[:, chosen][:, :, chosen]
            again.append(_measured(part, energy[:, chosen].sum(1), sensitivity[:, chosen].sum(1)))
        values = np.stack(again)
        bounds = _shifted(found, values, how.confidence), _shifted(spike, spikes(values), how.confidence)
    result: list[Signal] = []
    for i, name in enumerate(MEASURES):
        ends = (None,) * 4 if bounds is None else (bounds[0][0][i], bounds[0][1][i], bounds[1][0][i], bounds[1][1][i])
        result.append(Signal(name, found[i], ends[0], ends[1], spike[i], ends[2], ends[3], p[i]))
    return result


def spikes(values: Floats) -> Floats:
    """values (..., L) less the mean of the neighbouring ones."""
    padded = np.concatenate([values[..., 1:2], values, values[..., -2:-1]], -1)  # an end has one neighbour
    return values - (padded[..., :-2] + padded[..., 2:]) / 2


def _measured(grams: Floats, energy: Floats, sensitivity: Floats) -> Floats:
    """MEASURES (3, L) of grams (L, n, n), energy and sensitivity (L, C)."""
    mean = grams.mean(1, keepdims=True)
    centred = grams - mean - mean.transpose(0, 2, 1) + grams.mean((1, 2), keepdims=True)
    sizes = np.sqrt(np.clip(np.linalg.eigvalsh(centred), 0.0, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = _entropy(energy) / np.log(energy.shape[1])
        return np.stack([np.exp(_entropy(sizes)), entropy, 0.5 * np.log(sensitivity.sum(1))])


def _entropy(values: Floats) -> Floats:
    """Nats, of each row's shares; NaN for a row of zeros."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = values / values.sum(-1, keepdims=True)
        return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)


def _shares(energy: Floats) -> Floats:
    """Energy (L, n, C) over that of its layer: no layer is louder than another one."""
    total = energy.sum((1, 2), keepdims=True)
    return np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)


def members_of(groups: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """The texts of each group, in order of appearance; "" is no group: such a text stands alone."""
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault((group,) if group else place, []).append(place)
    return [np.array(of, np.int64) for of in places.values()]


def _shifted(estimate: Floats, values: Floats, confidence: float) -> Floats:
    """Bounds (2, ...) of the resampled values (R, ...), shifted onto the estimate."""
    tail = (1 - confidence) / 2
    return estimate + np.quantile(values, [tail, 1 - tail], axis=0) - values.mean(0)
