"""Intervals and p-values for small, paired, often binary samples. Pure numpy, float64, seeded, vectorised.

- `bootstrap_mean`: percentile (default) or BCa interval of a mean; of paired differences when given differences.
- `bootstrap_ratio`: percentile interval of sum(a) / sum(b), such as bits per byte over documents.
- `wilson`: interval of a proportion; unlike the bootstrap it is not empty when every answer is right.
- `sign_flip_p`: two-sided permutation p-value of a mean difference; exact for up to 16 non-zero differences.
- `correlations`: of quantities with an outcome, with permutation p-values; point-biserial where the outcome is 0 or 1.
- `groups_differ_p`: permutation p-value of a difference in the outcome's mean between groups.
- `holm`: p-values corrected for their number.

Promises: fewer than two values give None, never a made-up number; the same values and seed give the same result, bit
for bit; NaN or infinity among the values is an error, because a failed row must have been left out by its status
before. The unit of resampling is the question: what several draws of a control say about one question is averaged
first. Questions of one sort are answered better than those of another and differ in everything else too: so tests of
association can hold the sort fixed (`strata`), pairing outcomes anew only within it.

References: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 13, 14 and 16; Wilson (1927); Holm
(1979); Freedman & Lane (1983) for permutations with covariates, which exchange residuals and are exact without them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import UsageError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_VANISHED = 1e-9  # of a quantity's norm: what is left of one that the covariates explain is rounding
EXACT_SIGN_FLIPS = 16  # 2^16 assignments are enumerated; above that they are drawn
_CELLS_AT_ONCE = 2**22  # bounds memory: resamples are made in blocks of at most this many values


@dataclass(frozen=True)
class Resampling:
    """How intervals and p-values are made."""

    seed: int
    confidence: float
    resamples: int


class Estimate(NamedTuple):
    """A mean of n values and its interval; mean is None for n = 0, the bounds for n < 2."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A mean paired difference with its interval, its p-value and the p-value corrected for its family."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


def bootstrap_mean(
    values: ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    method: Literal["percentile", "bca"] = "percentile",
) -> Estimate:
    """Bootstrap interval of the mean of `values` (n,)."""
    x = _checked(values, confidence)
    if len(x) < 2:
        return Estimate(len(x), float(x.mean()) if len(x) else None, None, None)
    mean = float(x.mean())
    if np.all(x == x[0]):  # every resample is the sample
        return Estimate(len(x), mean, mean, mean)
    means = _resampled_means(x, n_resamples, seed)
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(x, mean, means, levels)
    low, high = np.quantile(means, levels)
    return Estimate(len(x), mean, float(low), float(high))


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000
) -> Estimate:
    """sum(numerators) / sum(denominators) over units that are resampled together, with percentile bootstrap interval.

    numerators, denominators: (n,), same order, denominators positive. `mean` is the ratio.
    """
    a, b = _checked(numerators, confidence), _checked(denominators, confidence)
    if a.shape != b.shape or np.any(b <= 0):
        raise UsageError("a ratio needs as many numerators as denominators, and these greater than 0")
    if len(a) < 2:
        return Estimate(len(a), float(a.sum() / b.sum()) if len(a) else None, None, None)
    rng = np.random.default_rng(seed)
    ratios = []
    for rows in blocks(n_resamples, len(a)):
        chosen = rng.integers(0, len(a), size=(rows, len(a)))
        ratios.append(a[chosen].sum(axis=1) / b[chosen].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Estimate(len(a), float(a.sum() / b.sum()), float(low), float(high))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000
) -> Difference:
    """mean(a - b) over pairs, with percentile bootstrap interval and sign-flip p-value. a, b: (n,), same order."""
    x, y = _checked(a, confidence), _checked(b, confidence)
    if x.shape != y.shape:
        raise UsageError(f"paired values come in equal numbers, not {len(x)} and {len(y)}")
    interval = bootstrap_mean(x - y, seed=seed, confidence=confidence, n_resamples=n_resamples)
    return Difference(*interval, p=sign_flip_p(x - y, seed=seed, n_draws=n_resamples))


def sign_flip_p(differences: ArrayLike, *, seed: int, n_draws: int = 10_000) -> float | None:
    """Two-sided p-value of "each difference is as likely negative as positive".

    The share of sign assignments whose |mean| is at least the observed one; drawn assignments count the observed one
    too, (1 + hits) / (1 + n_draws), so that it is never 0. Zero differences do not matter.
    """
    d = _checked(differences)
    if len(d) < 2:
        return None
    moved = d[d != 0]
    if len(moved) == 0:
        return 1.0
    # rounding must not turn the observed assignment, or its mirror image, into a less extreme one
    threshold = abs(moved.sum()) - 1e-12 * np.abs(moved).sum()
    if len(moved) <= EXACT_SIGN_FLIPS:
        codes = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))
        sums = (1.0 - 2.0 * (codes & 1)) @ moved
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(seed)
    hits = 0
    for rows in blocks(n_draws, len(moved)):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, len(moved)))
        hits += int(np.sum(np.abs(signs @ moved) >= threshold))
    return (1 + hits) / (1 + n_draws)


class Correlation(NamedTuple):
    """n pairs; r: Pearson's, over all of them. r_within: of the residuals within strata after the covariates; p: its
    two-sided permutation p-value. All None where a side does not vary (within, for r_within and p)."""

    n: int
    r: float | None
    p: float | None
    r_within: float | None = None


def correlations(
    quantities: Sequence[ArrayLike],
    outcome: ArrayLike,
    *,
    seed: int,
    n_draws: int = 10_000,
    strata: Sequence[Hashable] | None = None,
    given: Sequence[ArrayLike] = (),
) -> list[Correlation]:
    """Correlation of each of `quantities`, all (n,), with `outcome` (n,).

    strata (n,): what is compared only with its like; None: all is. given: covariates, each (n,). p is the share of
    random pairings within strata whose |r_within| is at least the observed one, the observed one counted as drawn, so
    that it is never 0: (1 + hits) / (1 + n_draws). All quantities meet the same pairings. Fewer than three pairs, or a
    side without variation, have no correlation.
    """
    y = _checked(outcome)
    rows, covariates = [_checked(quantity) for quantity in quantities], [_checked(quantity) for quantity in given]
    members = _members(strata, len(y))
    if any(row.shape != y.shape for row in [*rows, *covariates]):
        sizes = sorted({len(row) for row in [*rows, *covariates, y]})
        raise UsageError(f"correlated values come in equal numbers, not {sizes}")
    whole = [np.arange(len(y))]
    dy, pooled = _unit(y, whole), [_unit(row, whole) for row in rows]
    found = [Correlation(len(y), None, None) for _ in rows]
    for i, dx in enumerate(pooled):
        if dx is not None and dy is not None and len(y) >= 3:
            found[i] = Correlation(len(y), float(np.clip(dx @ dy, -1.0, 1.0)), None)
    basis = _basis([c for c in (_unit(row, members) for row in covariates) if c is not None], len(y))
    ey, residuals = _residual(_unit(y, members), basis), [_residual(_unit(row, members), basis) for row in rows]
    known = [i for i, row in enumerate(residuals) if row is not None and found[i].r is not None]
    if ey is None or not known:
        return found
    ex = np.stack([row for i, row in enumerate(residuals) if row is not None and i in known])
    observed = ex @ ey
    hits = np.zeros(len(known), np.int64)
    rng = np.random.default_rng(seed)
    for count in blocks(n_draws, len(y)):
        drawn = _paired_anew(ey, members, count, rng)
        left = np.sqrt(np.clip(1.0 - ((drawn @ basis) ** 2).sum(1), _VANISHED, None))  # what covariates do not explain
        # rounding makes no equal pairing less extreme
        hits += (np.abs(drawn @ ex.T) / left[:, None] >= np.abs(observed) - 1e-12).sum(0)
    for i, r, count in zip(known, observed, hits, strict=True):
        found[i] = found[i]._replace(p=float((1 + count) / (1 + n_draws)), r_within=float(np.clip(r, -1.0, 1.0)))
    return found


def groups_differ_p(
    groups: Sequence[Hashable],
    outcome: ArrayLike,
    *,
    seed: int,
    n_draws: int = 10_000,
    strata: Sequence[Hashable] | None = None,
) -> float | None:
    """p-value of "within a stratum the outcome (n,) does not depend on the group (n,)".

    Compared is the sum of squares between groups of the outcome less its stratum's mean, counted as in `correlations`.
    None for a single group, and where the outcome does not vary within strata.
    """
    y = _checked(outcome)
    if len(groups) != len(y):
        raise UsageError(f"{len(groups)} groups and {len(y)} outcomes: give one group for each")
    members = _members(strata, len(y))
    ey, which = _unit(y, members), _members(groups, len(y))
    if ey is None or len(which) < 2:
        return None
    indicator = np.zeros((len(y), len(which)))
    for number, of in enumerate(which):
        indicator[of, number] = 1 / np.sqrt(len(of))
    observed = float(((ey @ indicator) ** 2).sum())
    rng = np.random.default_rng(seed)
    hits = 0
    for count in blocks(n_draws, len(y)):
        drawn = ((_paired_anew(ey, members, count, rng) @ indicator) ** 2).sum(1)
        hits += int((drawn >= observed - 1e-12).sum())
    return (1 + hits) / (1 + n_draws)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None (no test was possible) stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def wilson(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean and Wilson score interval of values that are all 0 or 1."""
    x = _checked(values, confidence)
    if not np.all((x == 0) | (x == 1)):
        raise UsageError("Wilson's interval is for values 0 and 1; use bootstrap_mean")
    n = len(x)
    if n < 2:
        return Estimate(n, float(x.mean()) if n else None, None, None)
    share = float(x.mean())
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at 0 and 1 one bound is the share itself; rounding must not leave it outside
    return Estimate(n, share, min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half))))


def mean_interval(values: ArrayLike, *, seed: int, confidence: float = 0.95, n_resamples: int = 10_000) -> Estimate:
    """Wilson's interval where every value is 0 or 1, else the percentile bootstrap."""
    x = _checked(values, confidence)
    if np.all((x == 0) | (x == 1)):
        return wilson(x, confidence=confidence)
    return bootstrap_mean(x, seed=seed, confidence=confidence, n_resamples=n_resamples)


def _checked(values: ArrayLike, confidence: float = 0.95) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise UsageError(f"statistics need a flat list of finite numbers, not shape {x.shape} with non-finite values")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, not {confidence}")
    return x


def _resampled_means(x: Floats, n_resamples: int, seed: int) -> Floats:
    """Means (n_resamples,) of samples drawn from x with replacement."""
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), size=(rows, len(x)))].mean(axis=1) for rows in blocks(n_resamples, len(x))]
    return np.concatenate(means)


def blocks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to `total`, of as many rows of `width` values as memory shall hold at once."""
    step = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, total, step):
        yield min(step, total - start)


def _bca_levels(x: Floats, mean: float, means: Floats, levels: Floats) -> Floats:
    """Quantile levels corrected for bias and skewness (Efron & Tibshirani, equations 14.9 to 14.15)."""
    normal = NormalDist()
    below = float(((means < mean).mean() + (means <= mean).mean()) / 2)
    below = min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means))
    bias = normal.inv_cdf(below)
    left_out = (x.sum() - x) / (len(x) - 1)
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5)
    z = bias + np.array([normal.inv_cdf(float(level)) for level in levels])
    return np.array([normal.cdf(float(bias + v / (1 - acceleration * v))) for v in z])


def _members(strata: Sequence[Hashable] | None, n: int) -> list[Indices]:
    """The places of each stratum's pairs, strata in order of appearance."""
    if strata is None:
        return [np.arange(n)]
    if len(strata) != n:
        raise UsageError(f"{len(strata)} strata and {n} values: give one stratum for each")
    places: dict[Hashable, list[int]] = {}
    for place, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(place)
    return [np.array(of, np.int64) for of in places.values()]


def _unit(x: Floats, members: Sequence[Indices]) -> Floats | None:
    """x less its stratum's mean, of norm 1; None where x varies in none. Scaled first: no square may overflow."""
    if not any(len(of) and np.any(x[of] != x[of[0]]) for of in members):
        return None
    centred = x / np.abs(x).max()
    for of in members:
        varies = len(of) > 0 and np.any(x[of] != x[of[0]])
        centred[of] = centred[of] - centred[of].mean() if varies else 0.0
    norm = float(np.linalg.norm(centred))
    return centred / norm if norm > 0 else None


def _basis(columns: Sequence[Floats], n: int) -> Floats:
    """Orthonormal (n, k) basis of what the columns span."""
    if not columns:
        return np.zeros((n, 0))
    left, sizes, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return left[:, sizes > _VANISHED * sizes.max()]


def _residual(x: Floats | None, basis: Floats) -> Floats | None:
    """The part of x that the basis does not span, of norm 1; None where nothing is left."""
    if x is None or not basis.shape[1]:
        return x
    left = x - basis @ (basis.T @ x)
    norm = float(np.linalg.norm(left))
    return left / norm if norm > _VANISHED else None


def _paired_anew(x: Floats, members: Sequence[Indices], count: int, rng: np.random.Generator) -> Floats:
    """`count` copies of x, each shuffled within every stratum."""
    drawn = np.broadcast_to(x, (count, len(x))).copy()
    for of in members:
        if len(of) > 1:
            drawn[:, of] = rng.permuted(drawn[:, of], axis=1)
    return drawn
