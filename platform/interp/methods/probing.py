"""Probes: what can be read out of a site by a simple function, judged on groups (documents) that it has not seen.

Nested cross-validation: the outer folds judge, the inner folds of each training part choose the strength of the
penalty. Folds are of whole groups, so that no document stands on both sides. Coordinates are standardised by the
training part.

A class is read as one column for each class (an indicator), of which the largest is the answer; a number as one column.
The score of a number is R^2 against the training part's mean (0: no better than it, below 0: worse), that of a class
the balanced accuracy: the mean of the classes' recalls, whose chance is one over their number.

Pure functions of arrays; seeds are arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["class", "number"]


class Target(NamedTuple):
    """What is to be read: rows (n,) of the activation store, values (n,) numbers, or codes 0 to k - 1 of `classes`;
    groups (n,) codes of documents."""

    name: str
    kind: Kind
    rows: Integers
    values: Floats
    groups: Integers
    classes: tuple[str, ...] = ()

    @property
    def columns(self) -> Floats:
        """What a probe predicts, (n, k): indicators of the classes, or the number."""
        if self.kind == "number":
            return self.values[:, None]
        return (self.values[:, None] == np.arange(len(self.classes))).astype(np.float64)

    @property
    def chance(self) -> float:
        """The score of knowing nothing."""
        return 0.0 if self.kind == "number" else 1 / len(self.classes)


class Judged(NamedTuple):
    """score: out of fold, with its interval over groups resampled whole. strength: the median of those chosen.
    spread: standard deviation of the score over the seeds of the folds; None for one seed."""

    score: float
    low: float
    high: float
    strength: float
    spread: float | None


#: (x of the training part, its columns, x to predict, strengths, seed) -> predicted columns (strengths, n, k)
Probe = Callable[[Floats, Floats, Floats, Sequence[float], int], Floats]
#: penalties to choose from, weak first, for standardised coordinates
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "ridge": (1.0, 10.0, 100.0, 1000.0, 10_000.0),
    "lasso": (0.003, 0.01, 0.03, 0.1),
    "elastic_net": (0.003, 0.01, 0.03, 0.1),
    "logistic": (1.0, 10.0, 100.0),
    "mlp": (1.0, 10.0, 100.0),
}


def ridge(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    """Least squares with a penalty on the squared norm; all strengths from one decomposition."""
    mean = y.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected, seen = u.T @ (y - mean), wanted @ vt.T
    return np.stack([mean + (seen * (s / (s**2 + strength))) @ projected for strength in strengths])


def lasso(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    """Least squares with a penalty on the absolute weights (scikit-learn)."""
    return _penalised(x, y, wanted, strengths, ratio=1.0)


def elastic_net(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    """Least squares with both penalties in equal parts (scikit-learn)."""
    return _penalised(x, y, wanted, strengths, ratio=0.5)


def logistic(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    """Multinomial logistic regression with a penalty on the squared norm (scikit-learn); log-probabilities."""
    from sklearn.linear_model import LogisticRegression

    codes = y.argmax(1)
    found: list[Floats] = []
    for strength in strengths:
        fitted: Any = LogisticRegression(C=1 / strength, max_iter=300).fit(x, codes)
        found.append(_spread_out(fitted.predict_log_proba(wanted), fitted.classes_, y.shape[1]))
    return np.stack(found)


def mlp(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    """One hidden layer of 32 (scikit-learn): what only a non-linear reader finds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    found: list[Floats] = []
    scale = np.where(y.std(0) > 0, y.std(0), 1.0)
    for strength in strengths:
        fitted: Any = MLPRegressor(
            hidden_layer_sizes=(32,), solver="lbfgs", alpha=strength, max_iter=100, tol=1e-3, random_state=seed
        )
        wanted_y = (y - y.mean(0)) / scale
        with warnings.catch_warnings():  # stopped early is a penalty of its own, and the strength is chosen with it
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(x, wanted_y[:, 0] if y.shape[1] == 1 else wanted_y)
        found.append(np.asarray(fitted.predict(wanted)).reshape(len(wanted), -1) * scale + y.mean(0))
    return np.stack(found)


PROBES: Mapping[str, Probe] = {
    "ridge": ridge, "lasso": lasso, "elastic_net": elastic_net, "logistic": logistic, "mlp": mlp,
}  # fmt: skip


def score(target: Target, predicted: Floats, baseline: Floats, rows: Integers | None = None) -> float:
    """R^2 or balanced accuracy of predicted columns (n, k); baseline (n,): each row's training mean, for R^2."""
    chosen = np.arange(len(target.values)) if rows is None else rows
    values = target.values[chosen]
    if target.kind == "number":
        residual = ((values - predicted[chosen, 0]) ** 2).sum()
        total = ((values - baseline[chosen]) ** 2).sum()
        return float(1 - residual / total) if total > 0 else float("nan")
    right = predicted[chosen].argmax(1) == values
    recalls = [right[values == code].mean() for code in range(len(target.classes)) if (values == code).any()]
    return float(np.mean(recalls))


def judge(
    x: Floats, target: Target, probe: str, *, folds: int = 5, inner: int = 3, seeds: Sequence[int] = (0,),
    draws: int = 200,
) -> Judged:  # fmt: skip
    """Out-of-fold score of reading `target` from x (n, d) by nested cross-validation over groups.

    seeds: of the folds; the score is their mean, the interval that of the first. Raises UsageError for an unknown probe
    and for fewer than three groups.
    """
    scores: list[float] = []
    strengths: list[float] = []
    low = high = float("nan")
    for number, seed in enumerate(seeds):
        predicted, baseline, chosen = out_of_fold(x, target, probe, folds=folds, inner=inner, seed=seed)
        scores.append(score(target, predicted, baseline))
        strengths += chosen
        if number == 0:
            low, high = _interval(target, predicted, baseline, seed, draws)
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Judged(float(np.mean(scores)), low, high, float(np.median(strengths)), spread)


def out_of_fold(
    x: Floats, target: Target, probe: str, *, folds: int, inner: int, seed: int, strength: float | None = None
) -> tuple[Floats, Floats, list[float]]:
    """Predicted columns (n, k) of rows whose group was not trained on, training means (n,) for R^2, and the strength
    chosen in each fold. strength: given, none is chosen. Raises UsageError for an unknown probe."""
    if probe not in PROBES:
        raise UsageError(f"there is no probe {probe!r}; valid: {', '.join(PROBES)}")
    columns = target.columns
    predicted, baseline = np.zeros_like(columns), np.zeros(len(x))
    chosen: list[float] = []
    for test in group_folds(target.groups, folds, seed):
        train = np.setdiff1d(np.arange(len(x)), test)
        best = _choose(x[train], target, train, probe, inner, seed) if strength is None else strength
        predicted[test] = _predict(probe, x[train], columns[train], x[test], (best,), seed)[0]
        baseline[test] = target.values[train].mean()
        chosen.append(best)
    return predicted, baseline, chosen


def shuffled_scores(
    x: Floats, target: Target, probe: str, *, strength: float, folds: int, draws: int, seed: int
) -> list[float]:
    """The score with values exchanged among rows, of every draw: what the probe learns by heart does not count."""
    found: list[float] = []
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(len(x))
        mixed = target._replace(values=target.values[order])
        predicted, baseline, _ = out_of_fold(x, mixed, probe, folds=folds, inner=2, seed=seed, strength=strength)
        found.append(score(mixed, predicted, baseline))
    return found


def directions(x: Floats, target: Target, strength: float) -> Floats:
    """Unit vectors (k, d) in the coordinates of x along which a ridge probe of all rows reads the target: one for a
    number or two classes, else one for each class; orthonormal, fewer where they depend on each other."""
    mean, scale = x.mean(0), _scale(x)
    columns = target.columns
    columns = columns[:, 1:] if columns.shape[1] == 2 else columns
    z = (x - mean) / scale
    gram: Floats = z.T @ z + strength * np.eye(x.shape[1])
    towards: Floats = z.T @ (columns - columns.mean(0))
    weights: Floats = np.linalg.solve(gram, towards).T / scale
    _, s, vt = np.linalg.svd(weights, full_matrices=False)
    kept = vt[s > 1e-8 * max(s.max(), 1e-300)]
    return kept if len(kept) > 1 else weights[:1] / np.linalg.norm(weights[:1])


def group_folds(groups: Integers, folds: int, seed: int) -> list[Integers]:
    """Rows of each fold: whole groups, in a random order of the seed, about as many rows in each.

    Raises UsageError for fewer than three groups.
    """
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 3:
        raise UsageError(f"{len(names)} groups (documents, entities) cannot be split into folds; at least 3 are needed")
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.zeros(len(names), np.int64)
    sizes = np.zeros(min(folds, len(names)))
    for name in sorted(order, key=lambda i: -counts[i]):  # stable: ties in the random order
        fold[name] = int(sizes.argmin())
        sizes[fold[name]] += counts[name]
    of_row = fold[np.searchsorted(names, groups)]
    return [np.flatnonzero(of_row == number) for number in range(len(sizes))]


def _choose(x: Floats, target: Target, rows: Integers, probe: str, inner: int, seed: int) -> float:
    """The strength of the best score over inner folds; the weakest of the first where there are too few groups."""
    strengths = STRENGTHS[probe]
    part = target._replace(values=target.values[rows], groups=target.groups[rows], rows=target.rows[rows])
    if len(np.unique(part.groups)) < 3:
        return strengths[len(strengths) // 2]
    columns = part.columns
    predicted = np.zeros((len(strengths), *columns.shape))
    baseline = np.zeros(len(rows))
    for test in group_folds(part.groups, inner, seed + 1):
        train = np.setdiff1d(np.arange(len(rows)), test)
        predicted[:, test] = _predict(probe, x[train], columns[train], x[test], strengths, seed)
        baseline[test] = part.values[train].mean()
    return strengths[int(np.nanargmax([score(part, predicted[i], baseline) for i in range(len(strengths))]))]


def _predict(probe: str, x: Floats, columns: Floats, wanted: Floats, strengths: Sequence[float], seed: int) -> Floats:
    mean, scale = x.mean(0), _scale(x)
    return PROBES[probe]((x - mean) / scale, columns, (wanted - mean) / scale, strengths, seed)


def _scale(x: Floats) -> Floats:
    std = x.std(0)
    return np.where(std > 1e-9 * max(float(std.max()), 1e-300), std, np.inf)  # what does not vary is not read


def _interval(target: Target, predicted: Floats, baseline: Floats, seed: int, draws: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    names = np.unique(target.groups)
    rows: list[Integers] = [np.flatnonzero(target.groups == name) for name in names]
    found: list[float] = []
    for _ in range(draws):
        drawn: list[int] = rng.integers(0, len(names), len(names)).tolist()
        found.append(score(target, predicted, baseline, np.concatenate([rows[i] for i in drawn])))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def _penalised(x: Floats, y: Floats, wanted: Floats, strengths: Sequence[float], ratio: float) -> Floats:
    from sklearn.linear_model import ElasticNet

    found = np.zeros((len(strengths), len(wanted), y.shape[1]))
    for number, strength in enumerate(strengths):
        for column in range(y.shape[1]):
            scale = float(y[:, column].std()) or 1.0
            fitted: Any = ElasticNet(alpha=strength, l1_ratio=ratio, max_iter=2000, tol=1e-3)
            fitted.fit(x, (y[:, column] - y[:, column].mean()) / scale)
            found[number, :, column] = fitted.predict(wanted) * scale + y[:, column].mean()
    return found


def _spread_out(found: Floats, classes: Integers, k: int) -> Floats:
    """Columns of all k classes; a class that the training part lacks is never the answer."""
    whole = np.full((len(found), k), -np.inf)
    whole[:, classes] = found
    return whole
