"""Which feature of one model is which of another, by what they do on the same questions.

A feature is a number for every question: a channel's value at a position, or what the channel does there to the answer.
Its profile over questions is compared with those of all features of the other model by Pearson's correlation, and
features are paired one to one so that the sum of similarities is largest (the Hungarian method; Li et al. 2015,
arXiv 1511.07543, pair units of convolutional networks this way).

Among many features some correlate by chance, and an assignment looks for exactly these. So pairs are made on one half
of the questions and judged on the other, beside chance pairs, which were made on mismatched questions: those of the
second model in random order. (Pairs that these give as well, as happens among few features, are no chance pairs.)
`share` is the part of pairs whose correlation exceeds all but 5 % of the chance pairs', so that unrelated features have
a share of about .05, and `p` is that of the mean correlation being one more draw: a t-test of one value against m
others, m - 1 degrees of freedom, variance s^2 (1 + 1/m), since means over many pairs are near normal.

The similarity of values is |r|: a channel that is turned around or rescaled is the same feature for whatever reads it
linearly. That of effects is r itself, which no rescaling changes. Pure numpy, float64, seeded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
LEVEL = 0.05  # share of chance pairs above the bar
_STILL = 1e-10  # of a profile's norm: what is left after its mean is rounding


class Matched(NamedTuple):
    """Pairs of features (m,), m the smaller number of the two, by the first model's; and what they are worth.

    similarity: on the questions they were made on; held_out: on the others. bar: 95 % of chance pairs are below it;
    share: of pairs above. mean: of held_out; chance: its mean for each of the draws that has chance pairs; p:
    one-sided, of being one more.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: Floats
    held_out: Floats
    bar: float
    share: float
    mean: float
    chance: Floats
    p: float


def correlation(x: ArrayLike, y: ArrayLike) -> Floats:
    """Pearson's r (p, q) between the columns of x (n, p) and y (n, q); 0 where one does not vary.

    Raises UsageError for other shapes, and where the numbers of rows differ.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise UsageError(f"profiles are (questions, features) of the same questions, not {a.shape} and {b.shape}")
    return np.clip(_unit(a).T @ _unit(b), -1.0, 1.0)


def assign(similarity: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the one-to-one pairs with the largest sum of `similarity` (p, q), by row."""
    from scipy.optimize import linear_sum_assignment  # here, because importing it takes time

    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return np.asarray(rows, np.int64), np.asarray(columns, np.int64)


def match(x: ArrayLike, y: ArrayLike, *, made_on: ArrayLike, signed: bool, draws: int, seed: int) -> Matched:
    """Pair the features of x (n, p) with those of y (n, q), profiles over the same n questions.

    made_on (n,) bool: the questions on which pairs are made; the others judge them. signed: whether a negative
    correlation is no similarity. draws: random orders behind bar and p.

    Raises UsageError for other shapes, fewer than three questions on a side, and fewer than two draws.
    """
    a, b, made = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(made_on, bool)
    if made.shape != a.shape[:1] or min(made.sum(), (~made).sum()) < 3 or draws < 2:
        raise UsageError(
            f"a match takes three questions on each side and two draws, not {made.sum()} of {len(a)}, {draws}"
        )
    on_made, on_others = (_similarity(a[side], b[side], signed) for side in (made, ~made))
    first, second = assign(on_made)
    held_out = on_others[first, second]
    rng = np.random.default_rng(seed)
    chance: list[Floats] = []
    for _ in range(draws):
        order = rng.permutation(int(made.sum()))
        rows, columns = assign(_similarity(a[made], b[made][order], signed))
        apart = ~np.isin(rows * b.shape[1] + columns, first * b.shape[1] + second)
        if apart.any():
            chance.append(on_others[rows, columns][apart])
    # a single feature has one partner only, whatever the questions: there is nothing to compare it with
    bar = float(np.quantile(np.concatenate(chance), 1 - LEVEL)) if chance else 1.0
    means = np.array([float(draw.mean()) for draw in chance])
    mean = float(held_out.mean())
    share = float((held_out > bar).mean())
    return Matched(
        first, second, on_made[first, second], held_out, bar, share, mean, means, _beyond(mean, means)
    )  # fmt: skip


def agreement(one: Matched, other: Matched) -> float:
    """Share of the first model's features that both give the same partner, of those that either gives one."""
    theirs = dict(zip(other.first.tolist(), other.second.tolist(), strict=True))
    mine = dict(zip(one.first.tolist(), one.second.tolist(), strict=True))
    return sum(theirs.get(feature) == partner for feature, partner in mine.items()) / len(mine.keys() | theirs.keys())


def _similarity(x: Floats, y: Floats, signed: bool) -> Floats:
    r = correlation(x, y)
    return r if signed else np.abs(r)


def _unit(x: Floats) -> Floats:
    """Columns less their mean, of norm 1; zero where nothing is left."""
    centred = x - x.mean(0)
    norm, whole = np.linalg.norm(centred, axis=0), np.linalg.norm(x, axis=0)
    varies = norm > _STILL * whole
    return np.where(varies, centred / np.where(varies, norm, 1.0), 0.0)


def _beyond(value: float, draws: Floats) -> float:
    """One-sided p-value of `value` being one more of the draws (m,), which are taken as normal."""
    from scipy.special import stdtr  # here, because importing it takes time

    if len(draws) < 2:
        return 1.0
    m, away = len(draws), value - float(draws.mean())
    spread = float(draws.std(ddof=1)) * np.sqrt(1 + 1 / m)
    if spread == 0.0:
        return 0.0 if away > 0 else 1.0
    return float(stdtr(m - 1, -away / spread))
