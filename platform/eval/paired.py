"""Rows of several conditions as values by question, and the mean of paired differences with its interval.

What several draws, distances or windows say of one unit is averaged first, so that they do not pass for units; a unit
that has no value in any of its rows is left out of that condition. Pure functions of rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..scoring.statistics import Difference, Resampling, paired_difference

Row = Mapping[str, Any]
#: family or condition -> question, text or document -> value
Values = dict[str, dict[str, float]]


def values_by(rows: Iterable[Row], condition: str, unit: Callable[[Row], str], metric: str) -> Values:
    """The values of the column `metric` by the column `condition` and by unit, the mean over the rows of a unit."""
    found: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row[condition]][unit(row)].append(row[metric] if row["status"] == "ok" else None)
    return {
        name: {
            one: sum(v for v in values if v is not None) / len(values)
            for one, values in sorted(units.items())
            if all(v is not None for v in values)
        }
        for name, units in found.items()
    }


def mean_difference(
    values: Mapping[str, float], how: Resampling, groups: Mapping[str, str] | None = None, *, scores: bool
) -> Difference:
    """The mean of differences that were taken already, by unit. groups: unit -> what it has in common with others; one
    that is not there stands alone. scores: whether they are of values between 0 and 1.

    The test sees two sides whose differences these are, not the sides themselves, which an effect size would need.
    """
    names = sorted(values)
    found = paired_difference(
        [max(0.0, values[name]) for name in names], [max(0.0, -values[name]) for name in names],
        seed=how.seed, confidence=how.confidence, n_resamples=how.resamples,
        groups=None if groups is None else [groups.get(name, name) for name in names], shares=scores,
    )  # fmt: skip
    return found._replace(effect=None)
