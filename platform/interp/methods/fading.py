"""How far an effect reaches: its half-distance over the same prompts at every distance, with interval and p-value.

A curve of mean effects against distance is comparable along itself only where every distance has the same prompts, and
its maximum is positive by chance in half of all cases where there is no effect at all. So:

- `same_prompts` chooses prompts and distances by length alone: all distances that enough of the prompts have.
- p is of "at no distance is there an effect above zero": signs of whole prompts are flipped, and the largest
  sum / root of the sum of squares over all distances is compared (max-T of Westfall and Young 1993), so that trying
  many distances costs nothing. One-sided: a restored value that makes the answer less probable keeps nothing.
- The half-distance is the last distance before the mean effect first falls below half of its maximum, its interval
  that of a percentile bootstrap over prompts. A curve that never falls so far is censored: its half-distance is at
  least the farthest one looked at.

Pure numpy, seeded. Says nothing where there are fewer than two prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError
from ...scoring.statistics.flips import EXACT_SIGN_FLIPS
from ...scoring.statistics.samples import Floats, Indices, blocks

PANEL_SHARE = 0.5  # of the prompts that have to reach a distance for it to count


class Fading(NamedTuple):
    """n: prompts. p: of no effect above zero at any distance; None for n < 2. peak: the distance of the largest mean.

    half, low, high: half-distance and its interval; None where no mean is positive, and for n < 2 the interval. high is
    None too where it lies beyond the farthest distance. censored: the curve never falls below half of its maximum, and
    half is only a lower bound.
    """

    n: int
    p: float | None
    peak: int | None
    half: int | None
    low: int | None
    high: int | None
    censored: bool | None


def same_prompts(effects: Mapping[str, Mapping[int, float]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Ids and ascending distances such that every one of these prompts has every one of these distances.

    effects: prompt -> distance -> effect. The distances are those that at least PANEL_SHARE of the prompts have; the
    effects themselves have no say.
    """
    counts: dict[int, int] = {}
    for by_distance in effects.values():
        for distance in by_distance:
            counts[distance] = counts.get(distance, 0) + 1
    distances = tuple(sorted(d for d, count in counts.items() if count >= PANEL_SHARE * len(effects)))
    return tuple(id_ for id_, of in effects.items() if all(d in of for d in distances)), distances


def fading(
    effects: ArrayLike, distances: Sequence[int], *, seed: int, confidence: float = 0.95, n_resamples: int = 2000
) -> Fading:
    """The half-distance of effects (n, D): a row for each prompt, a column for each of the ascending `distances`, in
    tokens. Raises UsageError for other shapes, values that are not finite, and distances that do not ascend."""
    x = np.asarray(effects, np.float64)
    if x.ndim != 2 or x.shape[1] != len(distances) or not len(distances) or not np.isfinite(x).all():
        raise UsageError(f"effects are finite numbers (prompts, {len(distances)} distances), not of shape {x.shape}")
    if list(distances) != sorted(set(distances)):
        raise UsageError(f"distances ascend, each once, not {list(distances)}")
    n = len(x)
    p = _no_effect_p(x, seed, n_resamples) if n >= 2 else None
    means = x.mean(0) if n else np.zeros(len(distances))
    if not (means > 0).any():
        return Fading(n, p, None, None, None, None, None)
    at = int(_half_columns(means[None])[0])
    last = len(distances) - 1
    half, censored = distances[min(at, last)], at > last
    peak = distances[int(means.argmax())]
    if n < 2:
        return Fading(n, p, peak, half, None, None, censored)
    tail = (1 - confidence) / 2
    rng = np.random.default_rng(seed)
    drawn = [
        _half_columns(x[rng.integers(0, n, size=(rows, n))].mean(1)) for rows in blocks(n_resamples, n * len(means))
    ]
    low, high = map(int, np.quantile(np.concatenate(drawn), [tail, 1 - tail], method="inverted_cdf"))
    beyond = None if high > last else distances[high]
    return Fading(n, p, peak, half, distances[min(low, last)], beyond, censored)


def _half_columns(means: Floats) -> NDArray[np.int64]:
    """For each curve of means (R, D) the last column before it falls below half of its maximum; D: it never does.

    A curve without a positive mean reaches nowhere: column 0.
    """
    width = int(means.shape[1])
    peak: Floats = means.max(1, keepdims=True)
    # rounding must not make a mean of exactly half fall below it
    low = means < peak / 2 - 1e-12 * np.abs(peak)
    fallen = low & (np.arange(width) > means.argmax(1)[:, None])
    first: Indices = np.where(fallen.any(1), fallen.argmax(1) - 1, width)
    return np.where(peak[:, 0] > 0, first, 0)


def _no_effect_p(x: Floats, seed: int, n_draws: int) -> float:
    scale = np.sqrt((x**2).sum(0))  # the same for every assignment of signs
    x = x[:, scale > 0] / scale[scale > 0]
    x = x[(x != 0).any(1)]
    if not x.size:
        return 1.0
    threshold = x.sum(0).max() - 1e-12
    if len(x) <= EXACT_SIGN_FLIPS:
        codes = np.arange(1 << len(x))[:, None] >> np.arange(len(x))
        sums: Floats = (1.0 - 2.0 * (codes & 1)) @ x
        return float((sums.max(1) >= threshold).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for rows in blocks(n_draws, len(x)):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, len(x)))
        hits += int(((signs @ x).max(1) >= threshold).sum())
    return (1 + hits) / (1 + n_draws)
