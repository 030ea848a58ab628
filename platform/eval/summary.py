"""What the rows say: means per group and condition, paired differences, counts of statuses, the price, the verdict.

Promises
- Only test rows with status ok enter a mean; how many did not is counted beside it. A difference is taken over
  questions that both sides answered.
- A control with several draws is averaged per question first, so that draws do not pass for questions; so is a question
  that was asked at several distances. Means are over questions.
- Questions with the same `group` (one document, article or entity) depend on each other: intervals and p-values are by
  groups, as `scoring.statistics` makes them.
- Questions without an answer are counted apart, as guesses, and enter nothing else.
- Where prompts were cut, questions that were read whole and those that were not, and those whose evidence was read and
  those whose evidence was lost (or is named nowhere), are groups of their own.
- p-values of a comparison are Holm-corrected across the groups of one list (the levels; the data sets), EM and F1 each.
- The interval of a difference excludes zero exactly where its p-value is below 1 - confidence.

Pure functions of tables; they read and write no file.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..datasets.records import CATEGORIES, LEVEL_OF_CATEGORY
from ..scoring.metrics import score
from ..scoring.statistics import Difference, Estimate, Resampling, holm, mean_interval, paired_difference
from .behaviour import Behaviour, summarise_behaviour
from .conditions import STEERED, UNSTEERED
from .dose_response import FAMILY, DoseResponse, of_shares
from .likelihood_summary import Likely, summarise_likelihoods
from .paired import Row, Values, values_by
from .price import Price, summarise_price
from .robustness import SPLIT, Robust, compare
from .split import TEST, UNANSWERABLE
from .verdict import Evidence, Verdict, judge

#: metrics that are scores between 0 and 1; the others are numbers of no such range
SHARES = frozenset({
    "em", "f1", "original", "top1_agreement", "reached_limit", "empty", "repeated_words", "repeated_triples",
    "beats_distractors"
})  # fmt: skip
_EVIDENCE = {True: "kept", False: "lost", None: "unknown"}  # how `evidence_kept` is called


@dataclass(frozen=True)
class Measure:
    """One metric in one group. conditions: family -> estimate; differences: "a-b" -> paired difference."""

    conditions: dict[str, Estimate]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Group:
    """Questions that are summarised together. n: test questions; scored: those with a score in every condition."""

    name: str
    level: int | None
    n: int
    scored: int
    em: Measure
    f1: Measure


@dataclass(frozen=True)
class Guesses:
    """Answers to questions whose text does not answer them, one kind of them together. n: original questions.

    named: share of answers that name anything of the kind asked for; original: that name the original's answer.
    """

    kind: str
    n: int
    named: Measure
    original: Measure


@dataclass(frozen=True)
class Draw:
    """One draw of a control, over all test questions it answered; means over questions as everywhere else, so that they
    stand beside that of the recipe."""

    condition: str
    recipe_digest: str | None
    n: int
    em: float | None
    f1: float | None


@dataclass(frozen=True)
class Summary:
    """The result of an evaluation."""

    verdict: Verdict
    overall: Group
    levels: list[Group]
    datasets: list[Group]
    distances: list[Group]
    cuts: list[Group]  # "cut", "whole"; empty where every prompt was read whole, and so is the next
    evidence: list[Group]  # "kept", "lost", "unknown"
    guesses: list[Guesses]
    behaviour: Behaviour
    likelihoods: list[Likely]  # over all test questions, then by category; empty where none were asked for
    draws: dict[str, list[Draw]]
    missing: dict[str, str]  # control -> why it does not exist for this recipe
    status: dict[str, dict[str, int]]
    test_rows: int  # of the test side, and of questions without an answer
    bad_test_rows: int
    price: Price
    robust: list[Robust]  # the gain in other forms of the questions; empty where none was asked
    dose_response: list[DoseResponse]  # strengths are shares of the recipe's distance from the identity
    method: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; estimates and differences are objects with named numbers."""
        return _plain(self)


def summarise(
    items: pa.Table,
    prices: pa.Table,
    how: Resampling,
    tolerated: float = 0.05,
    *,
    missing: Mapping[str, str] | None = None,
    left_alone: bool = False,
) -> Summary:
    """The summary of the per-item table and the price table of one evaluation. tolerated: nats of a token that a dose
    may cost; missing: control -> why it does not exist; left_alone: the search chose the model as it is."""
    every = [row | _belonging(row) for row in items.to_pylist()]
    asked = [row for row in every if row["split"] == TEST and not row["control"]]
    rows = [row for row in asked if row["family"] != FAMILY]
    every_price = prices.to_pylist()
    steered = [STEERED] if any(r["family"] == STEERED for r in every) else []
    families = list(dict.fromkeys([UNSTEERED, *steered, *sorted({r["family"] for r in rows})]))
    compared = pairs(families)
    overall = group("overall", None, rows, families, compared, how)
    levels = _groups(rows, lambda r: r["category"], families, compared, how)
    datasets = _groups(rows, lambda r: r["dataset"], families, compared, how)
    swept = [row for row in rows if row["distance_target"] is not None]
    distances = _groups(swept, lambda r: f"{r['distance_target']:07d}", families, compared, how)
    read = [row for row in rows if row["n_cut_tokens"] is not None]
    read = read if any(row["n_cut_tokens"] for row in read) else []
    cuts = _groups(read, lambda r: "cut" if r["n_cut_tokens"] else "whole", families, compared, how)
    evidence = _groups(read, lambda r: _EVIDENCE[r["evidence_kept"]], families, compared, how)
    draws = _draws(rows)

    def measured(some: Sequence[Row], unit: str, metric: str) -> Measure:
        return measure_rows(some, unit, metric, families, compared, how)

    price = summarise_price([row for row in every_price if row["family"] != FAMILY], families, how, measured)
    judged = [row for row in every if row["split"] in (TEST, UNANSWERABLE)]
    status: dict[str, Counter[str]] = defaultdict(Counter)
    for row in every:
        status[row["family"]][row["status"]] += 1
    return Summary(
        verdict=judge(
            Evidence(
                overall.em.conditions,
                overall.em.differences,
                {name: [d.em for d in found] for name, found in draws.items()},
                price.nll.differences.get(f"{STEERED}-{UNSTEERED}"),
                _changed(values_of(rows, "question_id", "em")),
                missing or {},
                left_alone,
                price.source,
            ),
            alpha=1 - how.confidence,
        ),
        missing=dict(missing or {}),
        overall=overall,
        levels=levels,
        datasets=datasets,
        distances=[dataclasses.replace(g, name=str(int(g.name))) for g in distances],
        cuts=cuts,
        evidence=evidence,
        guesses=_guesses([row for row in every if row["split"] == UNANSWERABLE], families, compared, how),
        behaviour=summarise_behaviour(rows, measured),
        likelihoods=summarise_likelihoods(rows, measured, _holm),
        draws=draws,
        status={family: dict(sorted(counted.items())) for family, counted in sorted(status.items())},
        test_rows=len(judged),
        bad_test_rows=sum(row["status"] != "ok" for row in judged),
        price=price,
        robust=compare(asked, _alternatives(every), how),
        dose_response=of_shares(asked, every_price, "recipe", how, tolerated),
        method={
            "confidence": how.confidence,
            "resamples": how.resamples,
            "seed": how.seed,
            "tolerated": tolerated,
            "unit": "means over questions; intervals and p-values by the document, article or entity of a question",
            "groups": len({row["cluster"] for row in rows}),
            "interval": "score interval of shares and of their differences, inverted sign flips of all other values",
            "p": "two-sided sign flips of whole groups, for shares the larger of that and of the score test; "
            "Holm-corrected across the groups of a list",
        },
    )


def pairs(families: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared: nothing where nothing is steered, else steered with unsteered, and, for every control, steered
    with it and it with unsteered."""
    if STEERED not in families:
        return []
    controls = [f for f in families if f not in (UNSTEERED, STEERED)]
    return [(STEERED, UNSTEERED), *((STEERED, c) for c in controls), *((c, UNSTEERED) for c in controls)]


def _alternatives(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Form of the questions, in words -> rows."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["split"].startswith(SPLIT):
            found[row["split"].removeprefix(SPLIT).replace("_", " ")].append(row)
    return dict(found)


def _belonging(row: Row) -> dict[str, str]:
    """What counts as one question, and what that shares with others."""
    origin = row["derived_from"] or row["question_id"]
    return {"origin": origin, "cluster": row["group"] or origin}


def values_of(rows: Iterable[Row], key: str, metric: str) -> Values:
    """Family -> id -> value, averaged over draws; an id that any draw failed on, or that has no value, is left out."""
    return values_by(rows, "family", lambda row: row[key], metric)


def measure_rows(
    rows: Sequence[Row],
    unit: str,
    metric: str,
    families: Sequence[str],
    compared: Sequence[tuple[str, str]],
    how: Resampling,
) -> Measure:
    """The measure of a column. unit: the column of what counts as one; by groups of `cluster` where rows have it."""
    clusters = {row[unit]: row.get("cluster", row[unit]) for row in rows}
    return measure(values_of(rows, unit, metric), families, compared, how, clusters=clusters, shares=metric in SHARES)


def measure(
    values: Values,
    families: Sequence[str],
    compared: Sequence[tuple[str, str]],
    how: Resampling,
    *,
    clusters: Mapping[str, str] | None = None,
    shares: bool | None = None,
) -> Measure:
    """Estimates and paired differences of one metric. clusters: of each id, the group it belongs to; None: its own.
    shares: whether values are scores between 0 and 1."""
    settings = {"seed": how.seed, "confidence": how.confidence, "n_resamples": how.resamples, "shares": shares}

    def groups(ids: Sequence[str]) -> list[str] | None:
        return None if clusters is None else [clusters[name] for name in ids]

    conditions = {}
    for family in families:
        of_family = values.get(family, {})
        conditions[family] = mean_interval(list(of_family.values()), groups=groups(list(of_family)), **settings)
    differences = {}
    for a, b in compared:
        both = sorted(values.get(a, {}).keys() & values.get(b, {}).keys())
        sides = [[values[side][name] for name in both] for side in (a, b)]
        differences[f"{a}-{b}"] = paired_difference(*sides, groups=groups(both), **settings)
    return Measure(conditions, differences)


def group(
    name: str,
    level: int | None,
    rows: Sequence[Row],
    families: Sequence[str],
    compared: Sequence[tuple[str, str]],
    how: Resampling,
) -> Group:
    """One group of test rows."""
    scored = values_of(rows, "origin", "em")
    everywhere = set.intersection(*(set(scored.get(family, {})) for family in families))
    em, f1 = (measure_rows(rows, "origin", metric, families, compared, how) for metric in ("em", "f1"))
    return Group(name, level, len({row["origin"] for row in rows}), len(everywhere), em, f1)


def _groups(
    rows: Sequence[Row],
    name_of: Callable[[Row], str],
    families: Sequence[str],
    compared: Sequence[tuple[str, str]],
    how: Resampling,
) -> list[Group]:
    """Groups by a column, categories in their own order, with p-values corrected across them."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[name_of(row)].append(row)
    order = sorted(by_name, key=lambda n: (CATEGORIES.index(n) if n in CATEGORIES else len(CATEGORIES), n))
    groups = [group(n, LEVEL_OF_CATEGORY.get(n), by_name[n], families, compared, how) for n in order]
    em, f1 = _holm([g.em for g in groups]), _holm([g.f1 for g in groups])
    return [dataclasses.replace(g, em=em[i], f1=f1[i]) for i, g in enumerate(groups)]


def _guesses(
    rows: Sequence[Row], families: Sequence[str], compared: Sequence[tuple[str, str]], how: Resampling
) -> list[Guesses]:
    """All questions without an answer together, then kind by kind; `answers` are guesses, the original's first."""
    scored = [{**row, "original": _names_original(row)} for row in rows]
    kinds = sorted({row["control"] for row in rows})
    found = []
    for kind, of_kind in [("all", scored), *((k, [row for row in scored if row["control"] == k]) for k in kinds)]:
        named, original = (
            measure_rows(of_kind, "origin", column, families, compared, how) for column in ("em", "original")
        )
        found.append(Guesses(kind, len({row["origin"] for row in of_kind}), named, original))
    return found if rows else []


def _names_original(row: Row) -> float | None:
    return score(row["metric"], row["prediction"], row["answers"][:1]).em if row["status"] == "ok" else None


def _holm(measures: Sequence[Measure]) -> list[Measure]:
    """The same measures with p-values corrected across them, comparison by comparison."""
    names = list(measures[0].differences) if measures else []
    corrected = {name: holm([m.differences[name].p for m in measures]) for name in names}
    return [
        Measure(m.conditions, {name: m.differences[name]._replace(p_holm=corrected[name][i]) for name in names})
        for i, m in enumerate(measures)
    ]


def _draws(rows: Sequence[Row]) -> dict[str, list[Draw]]:
    """Control family -> its draws, each over the questions it answered."""
    by_condition: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["draw"] is not None:
            by_condition[row["family"], row["draw"], row["condition"]].append(row)
    found: dict[str, list[Draw]] = defaultdict(list)
    for (family, _, condition), of_draw in sorted(by_condition.items()):
        em, f1 = (values_of(of_draw, "origin", metric)[family] for metric in ("em", "f1"))
        found[family].append(
            Draw(condition, of_draw[0]["recipe_digest"], len(em), mean_of(em.values()), mean_of(f1.values()))
        )
    return dict(found)


def _changed(values: Values) -> float | None:
    """Share of questions whose score steering changes; None where there is nothing to compare."""
    steered, plain = values.get(STEERED, {}), values.get(UNSTEERED, {})
    both = steered.keys() & plain.keys()
    return sum(steered[name] != plain[name] for name in both) / len(both) if both else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None where there is none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}  # type: ignore[attr-defined]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
