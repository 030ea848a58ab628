"""Whether quantities go together with an outcome, and whether groups differ in it, by permutation.

Questions of one sort are answered better than those of another and differ in everything else too: so these tests can
hold the sort fixed (`strata`), pairing outcomes anew only within it.

Reference: Freedman & Lane (1983) for permutations with covariates, which exchange residuals and are exact without them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .samples import Floats, Indices, blocks, checked

_VANISHED = 1e-9  # of a quantity's norm: what is left of one that the covariates explain is rounding


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
    side without variation, have no correlation. Raises UsageError where the numbers of values differ or one is not
    finite.
    """
    y = checked(outcome)
    rows, covariates = [checked(quantity) for quantity in quantities], [checked(quantity) for quantity in given]
    members = _members(strata, len(y))
    if any(row.shape != y.shape for row in [*rows, *covariates]):
        sizes = sorted({len(row) for row in [*rows, *covariates, y]})
        raise UsageError(f"correlated values come in equal numbers, not {sizes}")
    whole = [np.arange(len(y))]
    dy, pooled = _unit(y, whole), [_unit(row, whole) for row in rows]
    results = [Correlation(len(y), None, None) for _ in rows]
    for i, dx in enumerate(pooled):
        if dx is not None and dy is not None and len(y) >= 3:
            results[i] = Correlation(len(y), float(np.clip(dx @ dy, -1.0, 1.0)), None)
    basis = _basis([c for c in (_unit(row, members) for row in covariates) if c is not None], len(y))
    ey, residuals = _residual(_unit(y, members), basis), [_residual(_unit(row, members), basis) for row in rows]
    known = [i for i, row in enumerate(residuals) if row is not None and results[i].r is not None]
    if ey is None or not known:
        return results
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
        results[i] = results[i]._replace(p=float((1 + count) / (1 + n_draws)), r_within=float(np.clip(r, -1.0, 1.0)))
    return results


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
    None for a single group, and where the outcome does not vary within strata. Raises UsageError where the numbers of
    groups, strata and outcomes differ.
    """
    y = checked(outcome)
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
