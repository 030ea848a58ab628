"""What can stand in for another model's activations, and whether a linear map does it better than its controls.

Maps are fitted on some questions and stand in on the others. Controls of a map: the same fitted on mismatched questions
(every question beside another one's activation), and from models with shuffled weights. Both know the mean and whatever
a map with so many parameters can keep of few questions. Pure numpy, seeded.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...scoring.statistics import Difference, Resampling, paired_difference
from .linear_alignment import MAPS, explained

Floats = NDArray[np.float64]
MEAN, ALIGNED, MISMATCHED, RANDOM = "mean", "aligned", "mismatched questions", "shuffled weights"
CARRIES, NO_DIFFERENCE = "more than both controls", "no difference shown"


class StandIn(NamedTuple):
    """What stands in. kind: one of the four above; fitted: name of the map, None for the mean; draw: of a control.
    values (n, C): for the n questions that judge; explained: share of the truth's variance there, None where it has
    none."""

    kind: str
    fitted: str | None
    draw: int | None
    values: Floats
    explained: float | None


def stand_ins_of(
    x: Floats, y: Floats, random: Sequence[Floats], *, made_on: NDArray[np.bool_], maps: Sequence[str], draws: int,
    seed: int,
) -> list[StandIn]:  # fmt: skip
    """The mean, then for each map the aligned one, `draws` mismatched ones and one for each of `random`.

    x (n, p), y (n, q): activations on the same questions, random: (n, r) each, of models with shuffled weights; made_on
    (n,): the questions that maps are fitted to. Raises UsageError as the maps do.
    """
    fit, judge = made_on, ~made_on
    floor = np.tile(y[fit].mean(0), (int(judge.sum()), 1))
    found = [StandIn(MEAN, None, None, floor, None)]
    for name in maps:
        aligned = MAPS[name](x[fit], y[fit])
        found.append(StandIn(ALIGNED, name, None, aligned.of(x[judge]), explained(aligned, x[judge], y[judge])))
        rng = np.random.default_rng(seed)
        for draw in range(draws):
            order = rng.permutation(int(fit.sum()))
            apart = MAPS[name](x[fit][order], y[fit][np.roll(order, 1)])
            found.append(StandIn(MISMATCHED, name, draw, apart.of(x[judge]), explained(apart, x[judge], y[judge])))
        for draw, other in enumerate(random):
            untrained = MAPS[name](other[fit], y[fit])
            made = untrained.of(other[judge])
            found.append(StandIn(RANDOM, name, draw, made, explained(untrained, other[judge], y[judge])))
    return found


class Apart(NamedTuple):
    """Whether a map's answers are better than both controls', each the mean of its draws: mean differences in nats with
    their intervals, and the larger of the two p-values; None where a control has no draw."""

    mismatched: Difference | None
    random: Difference | None

    @property
    def p(self) -> float | None:
        """The larger of the two; None where one is."""
        ps = [None if d is None else d.p for d in self]
        known = [p for p in ps if p is not None]
        return max(known) if len(known) == len(ps) else None

    def verdict(self, p_holm: float | None, confidence: float) -> str | None:
        """In words, by the corrected p-value; None where there is none."""
        if p_holm is None:
            return None
        above = all(d is not None and d.mean is not None and d.mean > 0 for d in self)
        return CARRIES if above and p_holm <= 1 - confidence else NO_DIFFERENCE


def apart_from_controls(
    aligned: Floats, mismatched: Sequence[Floats], random: Sequence[Floats], *, groups: Sequence[Hashable],
    how: Resampling,
) -> Apart:  # fmt: skip
    """aligned (n,), mismatched and random: (n,) each: log-probabilities of the same n answers."""

    def against(controls: Sequence[Floats]) -> Difference | None:
        if not controls:
            return None
        return paired_difference(
            aligned, np.mean(controls, 0), seed=how.seed, confidence=how.confidence, n_resamples=how.resamples,
            groups=groups, shares=False,
        )  # fmt: skip

    return Apart(against(mismatched), against(random))
