"""Correlation of two quantities over the tokens of a text, alone and with others held fixed, for many units at once.

Spearman's: Pearson's correlation of ranks (ties share their mean rank), so that one token of huge size does not decide.
Partial: of what is left of both sides' ranks after a linear fit to the covariates' ranks. A relation with a covariate
that is monotone but bent is thereby taken out as far as ranks make it straight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_VANISHED = 1e-9  # of a column's norm: what is left of one that the covariates explain is rounding
#: tokens that a text needs for each quantity in a correlation, at least
TOKENS_EACH = 4


def ranked(values: ArrayLike) -> Floats:
    """Centred ranks (T, U) of the values in each column (T, U); NaN in a column that has one."""
    x = np.asarray(values, np.float64)
    order = np.argsort(x, axis=0, kind="stable")
    ascending = np.take_along_axis(x, order, 0)
    place = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
    begins = np.ones(x.shape, bool)
    begins[1:] = ascending[1:] != ascending[:-1]
    ends = np.roll(begins, -1, axis=0)  # the last row comes before the first, which begins
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, len(x))[::-1], axis=0)[::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (first + last - (len(x) - 1)) / 2, 0)
    ranks[:, np.isnan(x).any(0)] = np.nan
    return ranks


def correlation(x: ArrayLike, y: ArrayLike, given: Sequence[ArrayLike] = ()) -> Floats:
    """Correlations (U,) over tokens of the columns of x and y, both (T, U) or (T, 1), after `given` (of such shapes).

    NaN where a side does not vary or is a function of what is given, and for texts of fewer than `TOKENS_EACH` tokens a
    quantity."""
    return of_ranks(ranked(x), ranked(y), [ranked(covariate) for covariate in given])


def of_ranks(x: Floats, y: Floats, given: Sequence[Floats] = ()) -> Floats:
    """`correlation` of centred ranks."""
    if len(x) < TOKENS_EACH * (2 + len(given)):
        return np.zeros(max(x.shape[1], y.shape[1])) + np.nan
    basis: list[Floats] = []
    for covariate in given:  # one that adds nothing to the others takes nothing away
        basis.append(np.nan_to_num(_unit(_without(covariate, basis), covariate)))
    left, right = _unit(_without(x, basis), x), _unit(_without(y, basis), y)
    together: Floats = (left * right).sum(0)
    return together.clip(-1.0, 1.0)


def _without(x: Floats, basis: Sequence[Floats]) -> Floats:
    for unit in basis:
        x = x - (x * unit).sum(0) * unit
    return x


def _unit(x: Floats, whole: Floats) -> Floats:
    """Columns of norm 1; NaN where next to nothing is left of the whole one."""
    norm, all_of_it = np.linalg.norm(x, axis=0), np.linalg.norm(whole, axis=0)
    known = norm > _VANISHED * np.maximum(all_of_it, 1e-300)
    return np.where(known, x / np.where(known, norm, 1.0), np.nan)
