"""Rows of the step `causal_equivalence`: two models at one pair of sites, by features and by what stands in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...scoring.statistics import Resampling, holm
from ..engine.batches import Item
from ..engine.statuses import NOT_APPLICABLE
from .feature_matching import agreement, match
from .principal import principal_directions
from .question_halves import group_of
from .remaining import remaining
from .site_readings import packed
from .sites_across_models import Counterparts
from .stand_ins import ALIGNED, MISMATCHED, RANDOM, Apart, StandIn, apart_from_controls

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]
#: number of the stand-in and id of the question -> log-probability of the answer, and whether it is right
Scores = Mapping[tuple[int, str], tuple[float, bool]]


class SidedSites(NamedTuple):
    """Two sites with what both models hold there on n questions; reason: why they do not compare, empty where they do.

    about: columns that say where. fit (n,): the questions that maps are fitted to and pairs made on; the others judge.
    x (n, p), y (n, q) and the gradients of the answers there; random: x of copies with shuffled weights. logprob,
    correct (n,): the second model's answers.
    """

    about: dict[str, Any]
    pair: Counterparts
    reason: str = ""
    items: Sequence[Item] = ()
    fit: NDArray[np.bool_] = np.zeros(0, bool)
    x: Floats = np.zeros((0, 0))
    y: Floats = np.zeros((0, 0))
    x_gradient: Floats = np.zeros((0, 0))
    y_gradient: Floats = np.zeros((0, 0))
    random: Sequence[Floats] = ()
    logprob: Floats = np.zeros(0)
    correct: Floats = np.zeros(0)

    @property
    def judging(self) -> list[str]:
        """Ids of the questions that judge."""
        return [item.id for item, fit in zip(self.items, self.fit, strict=True) if not fit]

    def missing(self, reason: str = "") -> dict[str, Any]:
        """The row that says that there is nothing, and no measured number."""
        kept = {name: self.about[name] for name in ("other", "site", "layer")}
        return kept | {"n_questions": len(self.items), "status": NOT_APPLICABLE, "reason": reason or self.reason}


def bases_of(
    each: SidedSites, bases: Sequence[str], most: int, given: tuple[Floats, Floats] | None
) -> Iterator[tuple[str, Floats, Floats]]:
    """Each basis with its directions in both models, as orthonormal rows."""
    for basis in bases:
        if basis == "channels":
            yield basis, np.eye(each.x.shape[1]), np.eye(each.y.shape[1])
        else:
            first, second = (principal_directions(side[each.fit], most) for side in (each.x, each.y))
            yield basis, first, second
    if given is not None:
        yield "given", *given


def feature_rows(
    each: SidedSites, bases: Iterator[tuple[str, Floats, Floats]], *, draws: int, seed: int
) -> tuple[Rows, Rows]:
    """Rows of the features, in each basis matched by value and by effect, and of their pairs."""
    rows: Rows = []
    pairs: Rows = []
    for basis, first, second in bases:
        if not len(first) or not len(second):
            rows.append(each.missing("nothing varies here from question to question") | {"basis": basis})
            continue
        sides = [
            ((values - values[each.fit].mean(0)) @ directions.T, gradient @ directions.T)
            for values, gradient, directions in (
                (each.x, each.x_gradient, first), (each.y, each.y_gradient, second),
            )
        ]  # fmt: skip
        (values, gradients), (other_values, other_gradients) = sides
        how: dict[str, Any] = {"made_on": each.fit, "draws": draws, "seed": seed}
        by = {
            "value": match(values, other_values, signed=False, **how),
            "effect": match(values * gradients, other_values * other_gradients, signed=True, **how),
        }
        alike = agreement(by["value"], by["effect"])
        for name, found in by.items():
            about = each.about | {"basis": basis, "by": name}
            rows.append(about | {
                "features": len(first), "other_features": len(second), "correlation": found.mean,
                "chance": float(found.chance.mean()) if len(found.chance) else None,
                "chance_low": min(found.chance.tolist(), default=None),
                "chance_high": max(found.chance.tolist(), default=None), "bar": found.bar, "share": found.share,
                "agreement": alike, "p": found.p, "n_questions": len(each.judging), "status": "ok",
            })  # fmt: skip
            pairs += [
                about | {"feature": a, "other_feature": b, "similarity": s, "held_out": h, "above": h > found.bar}
                for a, b, s, h in zip(found.first.tolist(), found.second.tolist(), found.similarity.tolist(),
                                      found.held_out.tolist(), strict=True)
            ]  # fmt: skip
    return rows, pairs


def stand_in_arguments(compared: Sequence[tuple[SidedSites, Sequence[StandIn]]]) -> dict[str, Any] | None:
    """Arguments of `batch_stand_ins` that put all stand-ins, numbered in their order, into the second model on the
    questions that judge; None where there are none."""
    sites: list[str] = []
    values: dict[str, list[Floats]] = {}
    for each, stand_ins in compared:
        assert each.pair.second is not None
        for stand_in in stand_ins:
            sites.append(each.pair.second.name)
            for id_, row in zip(each.judging, stand_in.values, strict=True):
                values.setdefault(id_, []).append(row)
    # values of a question stand one after the other: one that a site lacks would shift what follows
    whole = {id_: rows for id_, rows in values.items() if len(rows) == len(sites)}
    if not whole:
        return None
    widths = [len(row) for row in next(iter(whole.values()))]
    return {"sites": sites, "widths": widths, "values": {i: packed(np.concatenate(r)) for i, r in whole.items()}}


def stand_in_rows(each: SidedSites, stand_ins: Sequence[StandIn], scores: Scores, begin: int, how: Resampling) -> Rows:
    """Rows of one pair of sites, whose stand-ins are numbered from `begin` and begin with the mean."""
    numbers = range(begin, begin + len(stand_ins))
    judging = [
        i for i, item in enumerate(each.items)
        if not each.fit[i] and all((number, item.id) in scores for number in numbers)
    ]  # fmt: skip
    if not judging:
        return [each.missing("no answer has finite scores with every stand-in")]
    ids, groups = [each.items[i].id for i in judging], [group_of(each.items[i]) for i in judging]
    clean = each.logprob[judging], each.correct[judging]
    got = [tuple(np.array([scores[n, id_][k] for id_ in ids], np.float64) for k in (0, 1)) for n in numbers]
    rows: Rows = []
    for stand_in, own in zip(stand_ins, got, strict=True):
        kept, right = (
            remaining(own[k], clean[k], got[0][k], groups=groups, seed=how.seed, confidence=how.confidence,
                      n_resamples=how.resamples)
            for k in (0, 1)
        )  # fmt: skip
        rows.append(each.about | {
            "stand_in": stand_in.kind, "map": stand_in.fitted, "draw": stand_in.draw,
            "control": stand_in.kind != ALIGNED, "explained": stand_in.explained,
            "clean_logprob": float(clean[0].mean()), "clean_accuracy": float(clean[1].mean()),
            "logprob": float(own[0].mean()), "accuracy": float(own[1].mean()),
            "cost": kept.cost, "cost_low": kept.cost_low, "cost_high": kept.cost_high,
            "share": kept.share, "share_low": kept.low, "share_high": kept.high,
            "accuracy_share": right.share, "accuracy_low": right.low, "accuracy_high": right.high,
            "n_questions": len(ids), "status": "ok",
        })  # fmt: skip
        if stand_in.kind == ALIGNED:
            controls = [
                [scored[0] for one, scored in zip(stand_ins, got, strict=True)
                 if (one.fitted, one.kind) == (stand_in.fitted, kind)]
                for kind in (MISMATCHED, RANDOM)
            ]  # fmt: skip
            apart = apart_from_controls(own[0], *controls, groups=groups, how=how)
            above = [None if difference is None else difference.mean for difference in apart]
            rows[-1] |= {"above_mismatched": above[0], "above_random": above[1], "p": apart.p, "apart": apart}
    return rows


def with_verdicts(rows: Rows, confidence: float) -> Rows:
    """The rows of all pairs of sites, of which aligned ones have a corrected p-value and a verdict."""
    tested: list[tuple[dict[str, Any], Apart]] = [(row, row.pop("apart")) for row in rows if "apart" in row]
    for (row, apart), p in zip(tested, holm([apart.p for _, apart in tested]), strict=True):
        row |= {"p_holm": p, "verdict": apart.verdict(p, confidence)}
    return rows
