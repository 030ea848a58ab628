"""Numbers of prompts, one a row, and the columns of their means: what several measures of several parts have in common.

A batch function gives rows of `BATCH_SCHEMA`; `Found` collects them, and `Found.row` is a row of a table whose schema
`schema` makes of the same measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...scoring.statistics import bootstrap_mean, paired_difference
from ..engine.columns import column
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job

#: a row is one number of a prompt: `measure` of the part `of`, or between it and `other`
BATCH_SCHEMA = pa.schema(
    [("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("measure", pa.string()), ("of", pa.string()),
     ("other", pa.string()), ("value", pa.float64())]
)  # fmt: skip
#: what stands in `measure` of a prompt that has no finite values at a place
NONFINITE = "nonfinite"

_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where in the block: mixer, or mixer.stable beside another one; null where it is not"),
]
_END = [
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because something in them was not finite"),
    column("status", pa.string(), "ok; model_nonfinite: no prompt was left; not_applicable, with the reason"),
    column("reason", pa.string(), "why there is nothing to measure"),
]


class Measure(NamedTuple):
    """A column: the number of a prompt that it is the mean of, and what that means. interval: whether it has one."""

    column: str
    measure: str
    meaning: str
    interval: bool = True


def schema(about: Iterable[pa.Field], measures: Iterable[Measure], *more: pa.Field) -> pa.Schema:
    """Of a table with a row for each thing that the columns `about` name; more: columns behind the measures."""
    fields: list[pa.Field] = []
    for of in measures:
        fields.append(column(of.column, pa.float64(), of.meaning))
        if of.interval:
            fields.append(column(f"{of.column}_low", pa.float64(), "lower end of its bootstrap interval"))
            fields.append(column(f"{of.column}_high", pa.float64(), "upper end"))
    return pa.schema([*_PLACE, *about, *fields, *more, *_END])


class Found:
    """The rows that a batch function gave, by place, part, other part and measure. Raises UsageError as the statistics
    do. Job.settings: with `confidence` and `resamples`."""

    def __init__(self, table: pa.Table, job: Job) -> None:
        self._job = job
        self._groups = {item.id: item.group or item.id for item in job.items}
        self._values: dict[tuple[Any, ...], dict[str, float]] = {}
        self._bad: dict[tuple[int, str], set[str]] = {}
        for row in table.to_pylist():
            place = (row["layer"], row["site"])
            if row["measure"] == NONFINITE:
                self._bad.setdefault(place, set()).add(row["id"])
            else:
                self._values.setdefault((*place, row["of"], row["other"], row["measure"]), {})[row["id"]] = row["value"]

    def row(
        self,
        place: tuple[int, str],
        measures: Iterable[Measure],
        part: str,
        about: Mapping[str, Any],
        other: str | None = None,
    ) -> dict[str, Any]:
        """The means of these measures of a part at a (layer, site), with intervals; None where no prompt has one.
        about: what else the row says."""
        settings, counted = self._job.settings, set[str]()
        row: dict[str, Any] = {}
        for wanted in measures:
            values = self._of(place, wanted.measure, part, other)
            counted |= values.keys()
            numbers = list(values.values())
            row[wanted.column] = _mean(numbers) if numbers else None
            if wanted.interval:
                found = bootstrap_mean(
                    numbers, seed=self._job.seed, confidence=settings.confidence, n_resamples=settings.resamples,
                    groups=[self._groups[id_] for id_ in values],
                )  # fmt: skip
                row |= {f"{wanted.column}_low": found.low, f"{wanted.column}_high": found.high}
        bad = len(self._bad.get(place, ()))
        status = "ok" if counted else "model_nonfinite" if bad else NOT_APPLICABLE
        ends = {"n_prompts": len(counted), "n_nonfinite": bad, "status": status}
        return {"layer": place[0], "site": place[1]} | dict(about) | (row if counted else {}) | ends

    def p_of_zero(self, place: tuple[int, str], measure: str, of: str) -> float | None:
        """Two-sided sign-flip p-value of a mean of 0; None for fewer than two groups of prompts."""
        values = self._of(place, measure, of, None)
        groups = [self._groups[id_] for id_ in values]
        numbers, zeros = list(values.values()), [0.0] * len(values)
        settings = self._job.settings
        return paired_difference(
            numbers, zeros, seed=self._job.seed, confidence=settings.confidence, n_resamples=settings.resamples,
            groups=groups, shares=False,
        ).p  # fmt: skip

    def _of(self, place: tuple[int, str], measure: str, of: str, other: str | None) -> dict[str, float]:
        """Prompt -> number, of the prompts that are finite at the place."""
        found, bad = self._values.get((*place, of, other, measure), {}), self._bad.get(place, set())
        return {id_: value for id_, value in found.items() if id_ not in bad}


def _mean(values: Sequence[float]) -> float:
    """Exactly the value where all are equal, as weights are."""
    return values[0] if min(values) == max(values) else float(np.mean(values))
