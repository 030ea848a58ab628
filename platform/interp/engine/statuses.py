"""How many rows of a result carry a value, and whether that is enough to be called one.

Counted from the tables themselves, so that a cached result is judged as one just computed. A row without a value says
why in its column `status`; a table that has no such column cannot tell, and counts as good.

`not_applicable` is no failure: the row says that there is nothing to measure, such as the decay of an attention layer.
Neither is `model_wrong`: the model answers otherwise than the fact has it, and only right answers were asked for.
`check_failed` always is one, whatever share of rows may be without a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from .run import StepResult

COLUMN, GOOD = "status", "ok"
NOT_APPLICABLE = "not_applicable"
MODEL_WRONG = "model_wrong"
CHECK_FAILED = "check_failed"  # something is not as every analysis supposes; the row's `reason` says what
FAIL_OVER = 0.05  # share of a step's rows that may be without a value, as in `mplat eval`


def bad_statuses(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Status -> rows, of those that failed, by name."""
    counted: Counter[str] = Counter()
    fine = (GOOD, NOT_APPLICABLE, MODEL_WRONG)
    for table in tables:
        if COLUMN in table.column_names:
            counts = table[COLUMN].value_counts().to_pylist()
            counted.update({str(entry["values"]): entry["counts"] for entry in counts if entry["values"] not in fine})
    return dict(sorted(counted.items()))


def sentence(result: StepResult) -> str | None:
    """`activations: 3 of 72 rows are not ok (bad_input 3)`; None where all are."""
    bad = result.bad
    if not bad:
        return None
    counts = ", ".join(f"{status} {count:,}" for status, count in bad.items())
    return f"{result.step}: {sum(bad.values()):,} of {result.rows:,} rows are not ok ({counts})"


def failed_checks(result: StepResult) -> list[str]:
    """The reasons of checks that failed, of the first of its tables that has some."""
    for table in result.tables.values():
        if {COLUMN, "reason"} <= {*table.column_names}:
            rows = zip(table[COLUMN].to_pylist(), table["reason"].to_pylist(), strict=True)
            if reasons := [str(reason) for status, reason in rows if status == CHECK_FAILED]:
                return reasons
    return []


def failed(results: Mapping[str, StepResult], wanted: Iterable[str], fail_over: float) -> list[str]:
    """A sentence for each wanted step of which too many rows are not ok; all of them are always too many."""
    sentences = []
    for name in (name for name in wanted if name in results):
        bad, rows = sum(results[name].bad.values()), results[name].rows
        reason = sentence(results[name])
        if reason is not None and (bad == rows or bad > fail_over * rows):
            sentences.append(reason)
    return sentences
