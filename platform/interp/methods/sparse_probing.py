"""How few coordinates tell a label: k-sparse probes (Gurnee et al. 2023, arXiv 2305.01610).

For each k the k coordinates are chosen on the training side that differ most between the two classes, by their
difference of means in standard deviations, and a logistic regression on these alone is fitted there. What counts is the
other side: folds keep the tokens of one group (a document, an entity) together, and every token is judged once by
probes that saw none of its group.

Classes are weighted equally, in fits and in F1's threshold at a probability of 1/2; AUROC has no threshold.
Selectivity (Hewitt and Liang 2019) is the AUROC less that of the same probes on shuffled labels. numpy, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...runtime.plan import digest_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

RIDGE = 1e-2  # of the squared weights of standardised coordinates, beside the mean loss
_STEPS = 30
_NEWTON_WIDTH = 256  # wider probes are fitted by descent


class Probe(NamedTuple):
    """score = (x[columns] - mean) / std . weights + bias, the log-odds of the label."""

    columns: Integers
    mean: Floats
    std: Floats
    weights: Floats
    bias: float

    def scores(self, x: Floats) -> Floats:
        """Log-odds (n,) of x (n, C)."""
        return (x[:, self.columns] - self.mean) / self.std @ self.weights + self.bias

    @property
    def direction(self) -> Floats:
        """The weights of x[columns] as they are."""
        return self.weights / self.std


def separation(x: Floats, y: Bools) -> Floats:
    """|difference of the classes' means| (C,) in standard deviations within them; 0 for a coordinate that is the same
    at all tokens. x (n, C), y (n,) with both classes."""
    a, b = x[y], x[~y]
    within = np.sqrt((a.var(0) * len(a) + b.var(0) * len(b)) / len(x))
    difference = np.abs(a.mean(0) - b.mean(0))
    # one that separates without any spread within the classes separates best
    floor = 1e-6 * x.std(0)
    return np.where(x.std(0) > 0, difference / np.maximum(np.maximum(within, floor), 1e-300), 0.0)


def fit_probe(x: Floats, y: Bools, columns: Integers) -> Probe:
    """Ridge logistic regression on some coordinates, classes weighted equally.

    Raises InputError where a class has no member.
    """
    if y.all() or not y.any():
        raise InputError("a probe needs examples of both classes")
    chosen = x[:, columns]
    mean, std = chosen.mean(0), chosen.std(0)
    std = np.where(std > 0, std, 1.0)
    z = np.concatenate([(chosen - mean) / std, np.ones((len(x), 1))], 1)
    weight: Floats = np.where(y, 0.5 / int(y.sum()), 0.5 / int((~y).sum()))
    penalty = np.append(np.full(len(columns), RIDGE), 0.0)
    theta = _newton(z, y, weight, penalty) if z.shape[1] <= _NEWTON_WIDTH else _descent(z, y, weight, penalty)
    return Probe(columns, mean, std, theta[:-1], float(theta[-1]))


def _newton(z: Floats, y: Bools, weight: Floats, penalty: Floats) -> Floats:
    theta = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(z @ theta)
        gradient = z.T @ (weight * (p - y)) + penalty * theta
        curved = (z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(penalty) + 1e-9 * np.eye(len(theta))
        step = np.linalg.solve(curved, gradient)
        theta = theta - step / max(1.0, float(np.abs(step).max()) / 5.0)  # no leap where the curve is flat
        if float(np.abs(step).max()) < 1e-8:
            break
    return theta


def _descent(z: Floats, y: Bools, weight: Floats, penalty: Floats) -> Floats:
    """Gradient descent with momentum (Nesterov) at the step that the largest curvature allows."""
    root = np.sqrt(weight)[:, None] * z
    vector = np.ones(z.shape[1])
    for _ in range(20):
        vector = root.T @ (root @ vector)
        vector /= np.linalg.norm(vector)
    rate = 1 / (0.3 * float(vector @ (root.T @ (root @ vector))) + RIDGE)
    theta = ahead = np.zeros(z.shape[1])
    for number in range(200):
        p = _sigmoid(z @ ahead)
        new = ahead - rate * (z.T @ (weight * (p - y)) + penalty * ahead)
        ahead = new + number / (number + 3) * (new - theta)
        theta = new
    return theta


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * x))


def auroc(scores: Floats, y: Bools) -> float | None:
    """Probability that a member scores above a non-member, ties counting half; None where a class is empty."""
    positive = int(y.sum())
    negative = len(y) - positive
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]  # mean rank of ties
    return float((rank[y].sum() - positive * (positive + 1) / 2) / (positive * negative))


def f1(predicted: Bools, y: Bools) -> float:
    """2 TP / (2 TP + FP + FN); 0 without any true positive."""
    hits = int((predicted & y).sum())
    missed = int((predicted ^ y).sum())
    return 2 * hits / (2 * hits + missed) if hits else 0.0


def group_folds(groups: Sequence[str], folds: int) -> Integers:
    """A fold (n,) for each example, 0 to folds - 1: groups in the order of their digests, dealt one after the other."""
    order = sorted(dict.fromkeys(groups), key=digest_of)
    fold = {group: number % folds for number, group in enumerate(order)}
    return np.array([fold[group] for group in groups], np.int64)


class Sparse(NamedTuple):
    """What probes of k coordinates find on tokens they did not see. coordinates: those of the first fold's probe."""

    k: int
    auroc: float
    f1: float
    coordinates: tuple[int, ...]


def sparse_probes(x: Floats, y: Bools, folds: Integers, ks: Sequence[int]) -> list[Sparse] | None:
    """`Sparse` for each k up to the number of coordinates; None where a fold's training or test side lacks a class."""
    names = np.unique(folds)
    sides = [(folds != fold, folds == fold) for fold in names]
    if len(names) < 2 or any(y[side].all() or not y[side].any() for both in sides for side in both):
        return None
    ks = [k for k in ks if k <= x.shape[1]]
    scores = np.zeros((len(ks), len(y)))
    first: list[tuple[int, ...]] = []
    for number, (train, test) in enumerate(sides):
        order = np.argsort(-separation(x[train], y[train]), kind="stable").astype(np.int64)
        for at, k in enumerate(ks):
            probe = fit_probe(x[train], y[train], order[:k])
            scores[at, test] = probe.scores(x[test])
            if number == 0:
                first.append(tuple(int(c) for c in order[:k]))
    found: list[Sparse] = []
    for k, of_k, coordinates in zip(ks, scores, first, strict=True):
        area = auroc(of_k, y)
        assert area is not None, "both classes are on each side"
        found.append(Sparse(k, area, f1(of_k > 0, y), coordinates))
    return found


def shuffled(y: Bools, seed: int) -> Bools:
    """Labels in an order drawn anew: as many, of other examples."""
    return y[np.random.default_rng(seed).permutation(len(y))]
