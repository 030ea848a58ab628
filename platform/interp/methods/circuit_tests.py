"""Three tests of what a circuit claims: it does what the model does, the rest does not, and all of it is needed.

After Shi et al., "Hypothesis Testing the Circuit Hypothesis in LLMs" (arXiv 2410.13032); each with one p-value.

- equivalence. Null: on a random prompt the circuit has the higher metric than the model with a chance within
  1/2 +- tolerance. A small p says that one of them is systematically better: the circuit is not equivalent.
- independence. Null: what the complement (everything but the circuit) scores on a prompt above the corrupted run is
  independent of what the model scores there; the statistic is HSIC with Gaussian kernels of median width, its
  distribution by permutations. A small p says that the complement still knows something of the task. (Above the
  corrupted run, because that one knows the other answer, whose distance from the right one both scores share.)
- minimality. Null: some element of the circuit matters no more than a random element that is added to it. For every
  element the change of the circuit without it is ranked among those of random outside elements, each added to the
  circuit and taken away again; the line's p is the largest of these (an intersection-union test). A small p says that
  no element of the circuit could be left out.

So an ideal circuit has a large p in the first two and a small one in the third. Pure numpy, seeded.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError
from ...scoring.statistics import rank_p

Floats = NDArray[np.float64]


class Tested(NamedTuple):
    """p: None where the test is not possible. statistic: what it is about, see the test. n: prompts, or elements."""

    test: str
    statistic: float | None
    p: float | None
    n: int


def equivalence(circuit: ArrayLike, model: ArrayLike, *, tolerance: float = 0.1) -> Tested:
    """statistic: share of prompts on which the circuit's metric (n,) is above the model's; ties are half.

    p is the largest over the null's chances of a share at least as far from 1/2; None for fewer than two prompts.
    Raises UsageError for a tolerance outside of [0, 1/2).
    """
    if not 0 <= tolerance < 0.5:
        raise UsageError(f"the tolerance of an equivalence lies in [0, 0.5), not {tolerance}")
    a, b = np.asarray(circuit, np.float64), np.asarray(model, np.float64)
    n = len(a)
    if n < 2:
        return Tested("equivalence", None, None, n)
    same = np.abs(a - b) <= 1e-9 * (np.abs(a) + np.abs(b))
    share = float((np.where(same, 0.5, a > b)).mean())
    distance = abs(share - 0.5)
    counts = np.arange(n + 1)
    extreme = np.abs(counts / n - 0.5) >= distance - 1e-12
    chance = 0.5 + tolerance  # at 1/2 - tolerance the same, by symmetry
    mass = np.array([comb(n, int(k)) * chance**k * (1 - chance) ** (n - k) for k in counts])
    return Tested("equivalence", share, float(min(1.0, mass[extreme].sum())), n)


def independence(complement: ArrayLike, model: ArrayLike, *, seed: int, n_draws: int = 1000) -> Tested:
    """statistic: HSIC of the complement's metrics above the corrupted run's and the model's (n,); p by permutations.

    None for fewer than four prompts; 1 where either does not vary, but for rounding.
    """
    a, b = np.asarray(complement, np.float64), np.asarray(model, np.float64)
    n = len(a)
    if n < 4:
        return Tested("independence", None, None, n)
    K, L = _centred(_kernel(a)), _kernel(b)
    if min(np.ptp(a), np.ptp(b)) <= 1e-9 * max(np.abs(a).max(), np.abs(b).max()):
        return Tested("independence", 0.0, 1.0, n)
    own = float((K * L).sum()) / n**2
    rng = np.random.default_rng([seed % 2**63, n])
    drawn = np.empty(n_draws)
    for i in range(n_draws):
        order = rng.permutation(n)
        drawn[i] = (K * L[np.ix_(order, order)]).sum() / n**2
    return Tested("independence", own, rank_p(own, drawn + 1e-12 * abs(own)), n)


def minimality(elements: ArrayLike, outside: ArrayLike) -> tuple[Tested, list[float | None]]:
    """The line of the whole circuit, and the p-value of each element, not corrected: the line's claim is about all.

    elements (n,): by how much |m| changes without the element; outside (m,): by how much without an element that was
    added. statistic: the smallest change of an element. None without elements, or without others to compare with.
    """
    own, others = np.abs(np.asarray(elements, np.float64)), np.abs(np.asarray(outside, np.float64))
    if not len(own) or not len(others):
        return Tested("minimality", None, None, len(own)), [None] * len(own)
    p = [rank_p(float(value), others) for value in own]
    return Tested("minimality", float(own.min()), max(p), len(own)), list(p)


def _kernel(x: Floats) -> Floats:
    """Gaussian kernel of the values, its width their median distance."""
    distance = np.abs(x[:, None] - x[None])
    apart = distance[distance > 0]
    width = float(np.median(apart)) if len(apart) else 1.0
    return np.exp(-(distance**2) / (2 * width**2))


def _centred(K: Floats) -> Floats:
    return K - K.mean(0) - K.mean(1)[:, None] + K.mean()
