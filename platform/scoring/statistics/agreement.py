"""How much of what differs among values differs between their groups: intraclass correlations.

    ICC(1,1) = (MSB - MSW) / (MSB + (k - 1) MSW)     of a single value
    ICC(1,k) = (MSB - MSW) / MSB                     of the mean of a group's k values

MSB, MSW: mean squares between and within groups. Values of a group are exchangeable: no rater or occasion has a mean of
its own (Shrout and Fleiss 1979, case 1; ICC(1) and ICC(k) of McGraw and Wong 1996, one-way random effects). Groups of
unequal sizes take k = (N - sum n_i^2 / N) / (groups - 1), and their F interval is then approximate. An estimate below 0
says that values of one group differ more than those of two: it is no correlation and stays as it is.

Where each group has one value of each of several occasions, the first half of a text and the second, what all groups
have in common from one occasion to the next can be taken out: ICC(3,1) and ICC(3,k) of Shrout and Fleiss, ICC(C,1) and
ICC(C,k) of McGraw and Wong, the same formulas with the mean square of what is then left for MSW.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import UsageError
from .samples import Floats, Indices, blocks, checked

_VANISHED = 1e-12  # of the values' squares: sums of squares below are what rounding leaves


class IntraClass(NamedTuple):
    """groups, n: of values; size: k. single: ICC(1,1), average: ICC(1,k), each with its F interval; resampled_low,
    resampled_high: percentile bootstrap over groups of ICC(1,1), which supposes no normal values. p: of F, one-sided.
    All None for fewer than two groups, where no group has two values, and where nothing varies."""

    groups: int
    n: int
    size: float | None = None
    single: float | None = None
    single_low: float | None = None
    single_high: float | None = None
    average: float | None = None
    average_low: float | None = None
    average_high: float | None = None
    f: float | None = None
    p: float | None = None
    resampled_low: float | None = None
    resampled_high: float | None = None


def intraclass(
    values: ArrayLike,
    groups: Sequence[Hashable],
    *,
    seed: int,
    occasions: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> IntraClass:
    """ICC(1,1) and ICC(1,k) of values (n,) by the label of each; with `occasions` (n,) ICC(3,1) and ICC(3,k).

    Where groups do not differ within at all, both are 1, F is infinite (None) and p is 0. Raises UsageError where the
    numbers of labels and values differ, where a group lacks an occasion or has it twice, and as every statistic here.
    """
    from scipy.special import fdtrc, fdtri  # here, because importing it takes time

    x = checked(values, confidence)
    if len(groups) != len(x):
        raise UsageError(f"{len(groups)} groups and {len(x)} values: give one group for each")
    which = _numbered(groups)
    found = IntraClass(len(set(which.tolist())), len(x))
    if found.groups < 2 or found.n == found.groups:
        return found
    centred, lost = x - x.mean(), 0
    if occasions is not None:
        when = _occasions(which, occasions)
        centred = centred - (_sums(when, centred) / np.bincount(when))[when]
        lost = int(when.max())
    n = np.bincount(which).astype(np.float64)
    sums = _sums(which, centred)
    within = _sums(which, (centred - (sums / n)[which]) ** 2)
    floor = _VANISHED * float((x**2).sum())
    if float((centred**2).sum()) <= floor:
        return found
    within[within <= floor] = 0.0
    single, average, f, size = (float(v[0]) for v in _ratios(n[None], sums[None], within[None], lost))
    above, below = found.groups - 1, found.n - found.groups - lost
    drawn = _resampled(n, sums, within, lost, n_resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    found = found._replace(
        size=size, single=single, average=average, resampled_low=_number(low), resampled_high=_number(high)
    )
    if not np.isfinite(f):
        return found._replace(single_low=1.0, single_high=1.0, average_low=1.0, average_high=1.0, p=0.0)
    least = f / float(fdtri(above, below, 1 - tail))
    most = f * float(fdtri(below, above, 1 - tail))
    return found._replace(
        single_low=(least - 1) / (least + size - 1), single_high=(most - 1) / (most + size - 1),
        average_low=_number(1 - 1 / least if least > 0 else np.nan),
        average_high=_number(1 - 1 / most if most > 0 else np.nan), f=f, p=float(fdtrc(above, below, f)),
    )  # fmt: skip


def _numbered(labels: Sequence[Hashable]) -> Indices:
    """The number of each label, in the order in which they occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)


def _sums(which: Indices, values: Floats) -> Floats:
    """Of the values (n,) of each number."""
    sums: Floats = np.zeros(int(which.max()) + 1)
    np.add.at(sums, which, values)
    return sums


def _occasions(which: Indices, occasions: Sequence[Hashable]) -> Indices:
    if len(occasions) != len(which):
        raise UsageError(f"{len(occasions)} occasions and {len(which)} values: give one occasion for each")
    when = _numbered(occasions)
    pairs = set(zip(which.tolist(), when.tolist(), strict=True))
    if len(pairs) < len(which) or len(pairs) < (int(which.max()) + 1) * (int(when.max()) + 1):
        raise UsageError("occasions: each group needs one value of each of them")
    return when


def _ratios(n: Floats, sums: Floats, within: Floats, lost: int) -> tuple[Floats, Floats, Floats, Floats]:
    """ICC of one value and of the mean, F and k (R,) of R samples of groups (R, G), each with its count, sum and
    squares within; lost: degrees of freedom within that the means of occasions took."""
    total, count = n.sum(1), n.shape[1]
    between = ((sums**2 / n).sum(1) - sums.sum(1) ** 2 / total) / (count - 1)
    size = (total - (n**2).sum(1) / total) / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a sample of single values has no squares within
        inside = within.sum(1) / (total - count - lost)
        single = (between - inside) / (between + (size - 1) * inside)
        return single, (between - inside) / between, between / inside, size


def _resampled(n: Floats, sums: Floats, within: Floats, lost: int, n_resamples: int, seed: int) -> Floats:
    """ICC(1,1) of samples of groups drawn with replacement, those left out that have none."""
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    for rows in blocks(n_resamples, len(n)):
        chosen = rng.integers(0, len(n), size=(rows, len(n)))
        drawn.append(_ratios(n[chosen], sums[chosen], within[chosen], lost)[0])
    values = np.concatenate(drawn)
    return values[np.isfinite(values)]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
