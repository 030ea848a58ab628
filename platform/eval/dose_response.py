"""Dose and response: what a recipe gains and costs at each strength, which doses ship, and recipes at equal divergence.

The best strength of many is the luckiest one; what can be used is a range of doses. A dose *ships* where the lower
bound of its gain is above 0 and the upper bound of its price below what is tolerated. Bounds are simultaneous over the
strengths of a recipe (confidence 1 - alpha / number of strengths, Bonferroni), so that a range is no best of many;
p-values are not needed and not given.

Strengths of two recipes mean nothing beside each other. They are compared at equal KL(unsteered || steered) on the text
of the price: between two neighbouring strengths the gain of every question is interpolated linearly in KL, so that the
comparison is paired by question. Below and above the identity are two branches, each beginning at no dose and no gain.
Where a branch does not reach a divergence there is no value.

Pure functions of rows; read and write no file.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..core.errors import UsageError
from ..core.plain_text import Table, with_interval
from ..scoring.statistics import Difference, Resampling
from .conditions import STEERED, UNSTEERED
from .paired import Row, mean_difference, values_by

FAMILY = "dose"  # of conditions that are a recipe at a share of its distance from the identity


def dose_name(share: float) -> str:
    """The condition of a recipe at `share` of its distance from the identity."""
    return f"{FAMILY}_{share!r}"


def of_shares(
    items: Sequence[Row], prices: Sequence[Row], name: str, how: Resampling, tolerated: float, steered: str = STEERED
) -> list[DoseResponse]:
    """The responses of a recipe that was judged as it is, under `steered`, and at shares of its dose, under the names
    of `dose_name`; empty where it was not judged at shares. items: rows of test questions. A share that broke the
    model, so that no answer or no text has a score, has no point and is named (`without`)."""
    shares = {row["condition"]: float(row["condition"].removeprefix(f"{FAMILY}_")) for row in items
              if row["family"] == FAMILY}  # fmt: skip
    if not shares:
        return []
    strengths = {condition: (name, share) for condition, share in {**shares, steered: 1.0}.items()}
    scored = {row["condition"] for row in items if row["status"] == "ok"}
    priced = {row["condition"] for row in prices if row["status"] == "ok"}
    there = {condition: at for condition, at in strengths.items() if condition in scored & priced}
    without = tuple(sorted(share for condition, (_, share) in strengths.items() if condition not in there))
    norms: dict[str, list[float]] = defaultdict(list)
    for row in prices:
        if row["edit_norm"] is not None:
            norms[row["condition"]].append(row["edit_norm"])
    mean = {condition: sum(values) / len(values) for condition, values in norms.items()}
    groups = {_unit(row, "origin"): row["group"] for row in items if row["group"]}
    found = curves(items, prices, there, {name: 0.0}, norms=mean)
    responses = [respond(curve, how, tolerated=tolerated, groups=groups) for curve in found]
    return [dataclasses.replace(of, without=without) for of in responses] or [DoseResponse(name, (), (), without)]


class Dosed(NamedTuple):
    """One strength. gains: question -> metric steered minus unsteered; costs: document -> nats a token more; kl: mean
    over documents of the divergence, nats a token; norm: ||edit|| / ||site||, None where it was not measured."""

    strength: float
    kl: float
    gains: Mapping[str, float]
    costs: Mapping[str, float]
    norm: float | None = None


@dataclass(frozen=True)
class Curve:
    """A recipe at several strengths on one side of its identity, the weakest dose first; the identity is left out."""

    name: str
    points: tuple[Dosed, ...]


class Response(NamedTuple):
    """A strength and what it does; gain and cost are with simultaneous bounds. ships: see the module."""

    strength: float
    kl: float
    norm: float | None
    gain: Difference
    cost: Difference
    ships: bool


class Range(NamedTuple):
    """Neighbouring strengths that all ship, from the weakest to the strongest dose."""

    first: float
    last: float
    strengths: int


@dataclass(frozen=True)
class DoseResponse:
    """A curve in numbers. ranges: the doses that ship; empty where none does. without: strengths of the recipe at which
    no answer or no text has a score."""

    name: str
    points: tuple[Response, ...]
    ranges: tuple[Range, ...]
    without: tuple[float, ...] = ()


@dataclass(frozen=True)
class EqualDose:
    """Recipes at one divergence (nats a token). gains: name -> gain, None where the recipe does not reach it.
    differences: "a-b" -> paired difference of the gains of those that do, in the order given."""

    kl: float
    gains: Mapping[str, Difference | None]
    differences: Mapping[str, Difference]


def curves(
    items: Iterable[Row],
    prices: Iterable[Row],
    strengths: Mapping[str, tuple[str, float]],
    identities: Mapping[str, float],
    *,
    metric: str = "em",
    norms: Mapping[str, float] | None = None,
) -> list[Curve]:
    """The curves of the recipes in `strengths`: condition -> (recipe, strength).

    items, prices: rows of ITEM_SCHEMA and PRICE_SCHEMA of these conditions and of the unsteered model; a question or
    document without a value on either side is left out. identities: recipe -> the strength that changes nothing. norms:
    condition -> relative norm of the edit. A recipe with strengths on both sides of its identity has two curves, called
    "name below" and "name above". Raises UsageError for a recipe without an identity, and where a condition has no row.
    """
    scores = values_by(items, "condition", lambda row: _unit(row, "origin"), metric)
    nll, kl = _both_values(prices)
    found: dict[str, list[Dosed]] = defaultdict(list)
    sides: dict[str, set[bool]] = defaultdict(set)
    for condition, (name, strength) in strengths.items():
        if name not in identities:
            raise UsageError(f"dose and response: say at which strength {name!r} changes nothing")
        if strength == identities[name]:
            continue
        if condition not in scores or not kl.get(condition):
            raise UsageError(f"dose and response: condition {condition!r} has no answers or no price that count")
        sides[name].add(strength > identities[name])
    for condition, (name, strength) in strengths.items():
        if strength == identities[name]:
            continue
        both = len(sides[name]) == 2
        called = f"{name} {'above' if strength > identities[name] else 'below'}" if both else name
        found[called].append(
            Dosed(
                strength,
                kl=sum(kl[condition].values()) / len(kl[condition]),
                gains=_minus(scores[condition], scores.get(UNSTEERED, {})),
                costs=_minus(nll[condition], nll.get(UNSTEERED, {})),
                norm=None if norms is None else norms.get(condition),
            )
        )
    away = {called: identities[called.removesuffix(" above").removesuffix(" below")] for called in found}
    return [
        Curve(called, tuple(sorted(points, key=lambda p: abs(p.strength - away[called]))))
        for called, points in sorted(found.items())
    ]


def respond(
    curve: Curve,
    how: Resampling,
    *,
    tolerated: float,
    groups: Mapping[str, str] | None = None,
    simultaneous: bool = True,
) -> DoseResponse:
    """Gain and price at every strength. tolerated: nats a token that steering may cost. groups: question -> what it has
    in common with others, a document. Without `simultaneous` each bound is of one strength alone."""
    alpha = (1 - how.confidence) / (max(1, len(curve.points)) if simultaneous else 1)
    narrow = dataclasses.replace(how, confidence=1 - alpha)
    points = []
    for point in curve.points:
        gain, cost = (
            mean_difference(point.gains, narrow, groups, scores=True),
            mean_difference(point.costs, narrow, scores=False),
        )
        ships = gain.low is not None and gain.low > 0 and cost.high is not None and cost.high < tolerated
        points.append(Response(point.strength, point.kl, point.norm, gain, cost, ships))
    return DoseResponse(curve.name, tuple(points), _ranges(points))


def in_words(responses: Sequence[DoseResponse], tolerated: float) -> list[str | Table]:
    """A table of all strengths, and for each recipe the range that ships."""
    rows = [
        [of.name, f"{p.strength:g}", f"{p.kl:.4f}", None if p.norm is None else f"{p.norm:.3f}"]
        + [with_interval(d.mean, d.low, d.high, "+.3f", "+.3f") for d in (p.gain, p.cost)]
        + ["yes" if p.ships else "no"]
        for of in responses
        for p in of.points
    ]
    columns = ["recipe", "strength", "KL", "edit/site", "gain", "price (nats a token)", "ships"]
    lines: list[str | Table] = [Table(columns, rows)]
    for of in responses:
        found = ", ".join(f"{r.first:g} to {r.last:g}" if r.strengths > 1 else f"{r.first:g}" for r in of.ranges)
        lines.append(
            f"{of.name}: at strength {found} the gain holds and the price stays below {tolerated:g} nats a token"
            if found
            else f"{of.name}: at no strength does the gain hold at a price below {tolerated:g} nats a token"
        )
    if broken := sorted({strength for of in responses for strength in of.without}):
        lines.append(f"at strength {', '.join(f'{s:g}' for s in broken)} no answer or no text has a score")
    return lines


def _ranges(points: Sequence[Response]) -> tuple[Range, ...]:
    found: list[list[float]] = [[]]
    for point in points:
        if point.ships:
            found[-1].append(point.strength)
        elif found[-1]:
            found.append([])
    return tuple(Range(run[0], run[-1], len(run)) for run in found if run)


def gains_at(curve: Curve, kl: float) -> dict[str, float] | None:
    """Question -> gain where the curve first reaches `kl`; None where it does not. Questions that one of the two
    neighbouring strengths lacks are left out. Raises UsageError for a divergence that is not above 0."""
    if not kl > 0:
        raise UsageError(f"recipes are compared at a divergence above 0, not at {kl!r}")
    before: Dosed | None = None
    for point in curve.points:
        if point.kl >= kl:
            low = 0.0 if before is None else before.kl
            weight = (kl - low) / (point.kl - low)
            return {
                question: weight * gain + (1 - weight) * (0.0 if before is None else before.gains[question])
                for question, gain in point.gains.items()
                if before is None or question in before.gains
            }
        before = point
    return None


def common_divergences(several: Sequence[Curve], n: int = 5) -> list[float]:
    """`n` divergences that every curve reaches, evenly spaced in their logarithm, up to the largest such; none where
    one of the curves has no point with a divergence above 0. Raises UsageError for n below 1."""
    if n < 1:
        raise UsageError(f"recipes are compared at one divergence or more, not at {n}")
    positive = [[point.kl for point in curve.points if point.kl > 0] for curve in several]
    if not positive or not all(positive):
        return []
    high = min(max(kls) for kls in positive)
    low = min(high, max(min(kls) for kls in positive))
    return [high * (low / high) ** (1 - (i + 1) / n) if n > 1 else high for i in range(n)]


def at_equal_divergence(
    several: Sequence[Curve], kl: float, how: Resampling, *, groups: Mapping[str, str] | None = None
) -> EqualDose:
    """The recipes at divergence `kl`, and every two of those that reach it compared question by question."""
    gains = {curve.name: gains_at(curve, kl) for curve in several}
    estimates = {
        name: None if of is None else mean_difference(of, how, groups, scores=True) for name, of in gains.items()
    }
    reached = [name for name, of in gains.items() if of is not None]
    differences = {}
    for i, a in enumerate(reached):
        for b in reached[i + 1 :]:
            differences[f"{a}-{b}"] = mean_difference(_minus(gains[a] or {}, gains[b] or {}), how, groups, scores=False)
    return EqualDose(kl, estimates, differences)


def _minus(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: value - b[name] for name, value in a.items() if name in b}


def _unit(row: Row, unit: str) -> str:
    return row.get(unit) or row.get("derived_from") or row["question_id"]


def _both_values(prices: Iterable[Row]) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    rows = list(prices)
    nll, kl = (values_by(rows, "condition", lambda row: _unit(row, "document"), metric) for metric in ("nll", "kl"))
    return nll, kl
