"""What a search found, judged on questions that it did not see: cross-fitting inside the development questions.

The questions are cut into folds by their origin. For each fold the whole search is repeated on the others, and what it
finds is scored on the fold. Put together, every question is scored once under a recipe that was found without it, and
the mean difference to the model as it is estimates what a search of this kind is worth. The difference that the final
recipe makes on the questions that it was found on (*naive*) is the maximum of noise and reported beside it.

The estimate is of the search on a share of the questions, and a little too low for the search on all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..scoring.statistics import sign_flip_p
from .answered import Answers, Asked


class CrossFitted(NamedTuple):
    """Mean difference to the model as it is, over n questions, steered minus not.

    exact, logprob: of exact match and of the answer's log-probability (nats). exact_se, logprob_se: their standard
    errors, over origins. exact_p, logprob_p: one-sided p-values of "no better", by flipping the signs of origins; None
    where there are fewer than two. Questions without finite scores on either side are left out of logprob, and count as
    wrong in exact.
    """

    n: int
    exact: float
    exact_se: float
    exact_p: float | None
    logprob: float
    logprob_se: float
    logprob_p: float | None

    def convinces(self, alpha: float) -> bool:
        """Whether both differences are above 0 beyond chance: one-sided p of at most `alpha`."""
        told = (self.exact > 0, self.exact_p, self.logprob > 0, self.logprob_p)
        return bool(told[0] and told[2]) and all(p is not None and p <= alpha for p in (told[1], told[3]))


def folds(items: Sequence[Asked], count: int, seed: int) -> list[list[int]]:
    """The places of the items in `count` folds: an origin lies in one, their sizes differ as little as origins allow.

    Raises UsageError for fewer than two folds, and where there are fewer origins than folds.
    """
    by_origin: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        by_origin.setdefault(item.origin, []).append(i)
    if count < 2 or len(by_origin) < count:
        raise UsageError(
            f"cross-fitting in {count} folds needs at least 2 folds and as many groups of questions, "
            f"not {len(by_origin)}; give more development questions"
        )
    # like lengths are spread over the folds, because length is what most differs between kinds of questions
    drawn = sorted(by_origin, key=lambda o: hashlib.sha256(f"{seed}:{o}".encode()).digest())
    by_length = sorted(drawn, key=lambda o: -max(items[i].length for i in by_origin[o]))
    made: list[list[int]] = [[] for _ in range(count)]
    for start in range(0, len(by_length), count):
        smallest_first = sorted(range(count), key=lambda f: (len(made[f]), f))
        for fold, origin in zip(smallest_first, by_length[start : start + count], strict=False):
            made[fold] += by_origin[origin]
    return [sorted(fold) for fold in made]


def compare(items: Sequence[Asked], base: Answers, steered: Answers, seed: int) -> CrossFitted:
    """The difference between two ways of answering `items`, in their order."""
    exact = steered.exact.double() - base.exact.double()
    both = base.finite & steered.finite
    logprob = (steered.logprob - base.logprob)[both]
    origins = [item.origin for item in items]
    kept = [origin for origin, ok in zip(origins, both, strict=True) if bool(ok)]
    return CrossFitted(
        len(items), *_summary(exact, origins, seed), *(_summary(logprob, kept, seed) if kept else (0.0, math.inf, None))
    )


def _summary(difference: Tensor, origins: Sequence[str], seed: int) -> tuple[float, float, float | None]:
    """Mean, its standard error over origins, and the one-sided p-value of a mean that is not above 0."""
    mean = float(difference.mean())
    order = {origin: i for i, origin in enumerate(dict.fromkeys(origins))}
    index = torch.tensor([order[origin] for origin in origins])
    sums = torch.zeros(len(order), dtype=torch.float64).index_add_(0, index, difference - mean)
    n = len(order)
    error = float((sums**2).sum().sqrt()) / len(difference) * math.sqrt(n / (n - 1)) if n > 1 else math.inf
    two_sided = sign_flip_p(difference.numpy(), seed=seed, groups=origins)
    if two_sided is None:
        return mean, error, None
    return mean, error, two_sided / 2 if mean > 0 else 1 - two_sided / 2
