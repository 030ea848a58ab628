"""How well a direction separates texts that it was not fitted on.

AUROC: the probability that a random positive text lies further along the direction than a random negative one, ties
counted half (Mann-Whitney). 0.5 is chance, below 0.5 the direction leads the wrong way on held-out texts.

Held out means by group: the texts of one group (a pair, a document, the questions made from one) are on one side. For
every fold the direction is fitted on the other folds; scores of different folds have different scales, so only texts of
one fold are compared, and the folds count by the number of their comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import InputError, UsageError
from .method import Activations, Labelled, direction_of


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs of values. Raises UsageError where either has none,
    InputError where a value is not finite."""
    first, second = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if first.ndim != 1 or second.ndim != 1 or not len(first) or not len(second):
        raise UsageError(f"AUROC compares two lists of at least one value, not {first.shape} and {second.shape}")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise InputError("AUROC: a value is not finite")
    ordered = np.sort(second)
    below, up_to = np.searchsorted(ordered, first, "left"), np.searchsorted(ordered, first, "right")
    return float((below + up_to).sum() / 2 / (len(first) * len(second)))


def folds_by_group(positive: Sequence[str], negative: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The fold, 0 to folds - 1, of every group named in `positive` or `negative` (the groups of the texts).

    Groups of both sets, of positive texts alone and of negative ones alone are dealt out in turn, so that every fold
    has as many of each kind as possible. Raises UsageError for fewer than 2 folds, InputError where a fold would lack
    positive or negative texts.
    """
    if folds < 2:
        raise UsageError(f"held-out separability needs at least 2 folds, not {folds}")
    both = set(positive) & set(negative)
    kinds = [both, set(positive) - both, set(negative) - both]
    rng = np.random.default_rng(seed)
    fold: dict[str, int] = {}
    for kind in kinds:
        names = sorted(kind)
        for i, at in enumerate(rng.permutation(len(names))):
            fold[names[int(at)]] = i % folds
    for label, groups in (("positive", positive), ("negative", negative)):
        has = {fold[group] for group in groups}
        if len(has) < folds:
            raise InputError(
                f"the {label} texts are of {len(set(groups))} groups, too few for {folds} folds by group; "
                "give more of them, or fewer folds"
            )
    return fold


def held_out_auroc(
    method: str, examples: Labelled, positive: Sequence[str], negative: Sequence[str], *, folds: int
) -> float:
    """AUROC on held-out groups, as the module says; `positive` and `negative` name the groups of the rows of
    `examples`. Raises as `folds_by_group` and `direction_of`."""
    fold = folds_by_group(positive, negative, folds, examples.seed)
    of_positive = np.array([fold[group] for group in positive])
    of_negative = np.array([fold[group] for group in negative])
    right = compared = 0.0
    for i in range(folds):
        fitted_on = Labelled(
            examples.positive[of_positive != i], examples.negative[of_negative != i], examples.paired, examples.seed
        )
        direction = direction_of(method, fitted_on)
        left_out = examples.positive[of_positive == i], examples.negative[of_negative == i]
        pairs = len(left_out[0]) * len(left_out[1])
        right += pairs * auroc(_along(left_out[0], direction), _along(left_out[1], direction))
        compared += pairs
    return right / compared


def _along(x: Activations, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return x @ direction
