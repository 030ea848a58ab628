"""Likelihoods in a summary: how likely the answers and how well they stand against distractors, steered and not.

A score says whether an answer was given; likelihoods say how near a model is to giving it, and change where no answer
does. They are further metrics beside exact match, paired in the same way, and no part of the verdict. A row counts
where its likelihood is known, whatever became of its generated answer. Pure functions of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.plain_text import Table, with_interval

if TYPE_CHECKING:
    from .summary import Measure

Row = Mapping[str, Any]
#: rows, the column that says what counts as one, and the column of the values -> estimates and paired differences
MeasureOf = Callable[[Sequence[Row], str, str], "Measure"]
#: the same measures with p-values corrected across them
Correct = Callable[[Sequence["Measure"]], "list[Measure]"]
OVERALL = "overall"


@dataclass(frozen=True)
class Likely:
    """Likelihoods over one group of test questions. n: of so many; failed: rows without a likelihood.

    logprob: of the answer and its end, nats; logprob_per_byte: nats over the bytes of both; margin: logprob minus that
    of the likeliest distractor, nats; beats_distractors: share of answers that are likelier than each of them. The last
    two are over questions that have distractors.
    """

    name: str
    n: int
    failed: int
    logprob: Measure
    logprob_per_byte: Measure
    margin: Measure
    beats_distractors: Measure


#: field -> what it is called
METRICS = {
    "logprob": "log-likelihood, nats",
    "logprob_per_byte": "nats per byte",
    "margin": "over distractors, nats",
    "beats_distractors": "beats distractors",
}


def summarise_likelihoods(
    rows: Sequence[Row], measure: MeasureOf, correct: Correct, unit: str = "origin"
) -> list[Likely]:
    """Over all rows, then category by category, corrected across these; empty where nobody asked for likelihoods."""
    known = [_with_margin(row) for row in rows if row["likelihood_status"] is not None]
    if not known:
        return []
    names = sorted({(row["level"] or 0, row["category"]) for row in known})
    by_category = [(name, [row for row in known if row["category"] == name]) for _, name in names]
    groups = [_group(name, some, measure, unit) for name, some in by_category]
    corrected = {field: correct([getattr(group, field) for group in groups]) for field in METRICS}
    groups = [
        dataclasses.replace(group, **{field: corrected[field][i] for field in METRICS})
        for i, group in enumerate(groups)
    ]
    return [_group(OVERALL, known, measure, unit), *groups]


def in_words(found: Sequence[Likely]) -> list[str | Table]:
    """A table of the metrics over all questions; nothing where there are none."""
    if not found:
        return []
    overall = found[0]
    measures = {title: getattr(overall, field) for field, title in METRICS.items()}
    families = list(overall.logprob.conditions)
    compared = [name for name in overall.logprob.differences if name.startswith("steered-")]
    rows: list[list[object]] = []
    for title, measure in measures.items():
        estimates = [measure.conditions[family] for family in families]
        if any(e.mean is not None for e in estimates):
            cells = [with_interval(e.mean, e.low, e.high, ".3f", ".2f") for e in estimates]
            differences = [measure.differences[name] for name in compared]
            cells += [with_interval(d.mean, d.low, d.high, "+.3f", "+.2f") for d in differences]
            rows.append([title, max(e.n for e in estimates), *cells, *(d.p for d in differences)])
    short = [family.removeprefix("control_") for family in families]
    columns = ["answer", "n", *short, *(name.replace("control_", "").replace("-", " - ") for name in compared)]
    columns += [f"p({name.split('-')[1].removeprefix('control_')})" for name in compared]
    lines: list[str | Table] = ["likelihood of the right answer behind the same prompts", Table(columns, rows)]
    if overall.failed:
        lines.append(f"{overall.failed} rows have no likelihood; likelihood_status in items.parquet says why")
    return [*lines, ""]


def _with_margin(row: Row) -> dict[str, Any]:
    """`row` with the status of its likelihood in the place of that of its answer."""
    answer, best = row["answer_logprob"], row["distractor_logprob"]
    margin = None if answer is None or best is None else answer - best
    return {**row, "status": row["likelihood_status"], "margin": margin}


def _group(name: str, rows: Sequence[Row], measure: MeasureOf, unit: str) -> Likely:
    return Likely(
        name,
        len({row[unit] for row in rows}),
        sum(row["status"] != "ok" for row in rows),
        measure(rows, unit, "answer_logprob"),
        measure(rows, unit, "answer_logprob_per_byte"),
        measure(rows, unit, "margin"),
        measure(rows, unit, "beats_distractors"),
    )
