"""Bootstrap intervals of many quantities of the same units at once, such as one for each channel of a model.

The draws are those of `bootstrap_ratio` with the same seed: all columns see the same resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .samples import Floats, blocks, grouped


class Columns(NamedTuple):
    """Estimates (C,) with their bounds; NaN where there is none: a denominator of 0, or fewer than two groups."""

    value: Floats
    low: Floats
    high: Floats


def bootstrap_columns(
    numerators: ArrayLike,
    denominators: ArrayLike | None = None,
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    groups: Sequence[Hashable] | None = None,
) -> Columns:
    """Column by column sum(numerators) / sum(denominators), with percentile bootstrap interval over units.

    numerators (n, C). denominators (n, C) or (n, 1), not negative; None: 1 each, which gives means. groups (n,): units
    with one label are resampled together. Raises UsageError for other shapes, values that are not finite, and a
    confidence outside (0, 1).
    """
    a = np.asarray(numerators, np.float64)
    b = np.ones((len(a), 1)) if denominators is None else np.asarray(denominators, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or b.shape[1] not in (1, a.shape[1]):
        raise UsageError(f"columns are (n, C) over (n, C) or (n, 1), not {a.shape} over {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b >= 0).all()):
        raise UsageError("columns need finite numerators, and denominators from 0 on")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, not {confidence}")
    if groups is not None:
        a, b = (np.stack([grouped(column, groups).sums for column in x.T], 1) for x in (a, b))
    value = _ratio(a.sum(0), b.sum(0))
    n = len(a)
    if n < 2:
        return Columns(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    for rows in blocks(n_resamples, n):
        chosen = rng.integers(0, n, size=(rows, n))
        times = np.zeros((rows, n))
        np.add.at(times, (np.arange(rows)[:, None], chosen), 1.0)
        drawn.append(_ratio(times @ a, times @ b))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return Columns(value, low, high)


def _ratio(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(
        a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=np.broadcast_to(b > 0, a.shape)
    )
