"""What was measured in each text, averaged over texts, with bootstrap intervals: the unit is the text.

Rows are of one text each: `id`, what they belong to (`keys`), values that may be null where the text does not have
them, `status` and perhaps `reason`. Where some rows of a cell are ok the others are counted; where none is, the
cell says why as they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...scoring.statistics import Resampling
from ..engine.columns import column
from ..engine.statuses import GOOD
from .averages import bootstrap_means

Rows = list[dict[str, Any]]

STATUS = [
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value"),
]


def interval_columns(name: str, meaning: str) -> list[pa.Field]:
    """The column `name` with its interval over prompts."""
    return [
        column(name, pa.float64(), f"{meaning}; mean over prompts"),
        column(f"{name}_low", pa.float64(), f"lower end of the interval of {name}; null for fewer than two prompts"),
        column(f"{name}_high", pa.float64(), "upper end"),
    ]


def averaged(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], values: Sequence[str], how: Resampling,
    plain: Sequence[str] = (),
) -> Rows:  # fmt: skip
    """A row for each combination of `keys`, in the order in which they occur: `values` as means over texts with
    intervals (name, name_low, name_high), `plain` as means alone, and the columns `STATUS`."""
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in keys), []).append(row)
    ids = list(dict.fromkeys(row["id"] for row in rows))
    place = {id_: number for number, id_ in enumerate(ids)}
    names = [*values, *plain]
    grid = np.full((len(ids), len(cells) * len(names)), np.nan)
    for number, of_cell in enumerate(cells.values()):
        for row in of_cell:
            if row["status"] == GOOD:
                at = [row.get(name) for name in names]
                grid[place[row["id"]], number * len(names) : (number + 1) * len(names)] = np.array(at, np.float64)
    inner = np.arange(grid.shape[1]).reshape(len(cells), len(names))[:, : len(values)].ravel()
    mean = mean_of(grid)
    inner = inner[np.isfinite(mean[inner])]
    found = bootstrap_means(grid[:, inner], how.confidence, how.resamples, how.seed)
    low, high = (np.full(grid.shape[1], np.nan) for _ in range(2))
    low[inner], high[inner] = found.low, found.high
    made: Rows = []
    for number, (cell, of_cell) in enumerate(cells.items()):
        made.append(dict(zip(keys, cell, strict=True)) | _status(of_cell))
        if made[-1]["status"] != GOOD:
            continue
        for j, name in enumerate(names):
            at = number * len(names) + j
            made[-1][name] = number_or_none(mean[at])
            if j < len(values):
                made[-1] |= {f"{name}_low": number_or_none(low[at]), f"{name}_high": number_or_none(high[at])}
    return made


def mean_of(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (k,) over the finite entries of each column of `grid` (n, k); NaN where there are none."""
    known = np.isfinite(grid)
    count = known.sum(0)
    total = np.where(known, grid, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def number_or_none(value: float) -> float | None:
    """None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def _status(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(row["status"] for row in rows)
    texts = len({row["id"] for row in rows if row["status"] == GOOD})
    about: dict[str, Any] = {"n_prompts": texts, "n_nonfinite": counts["model_nonfinite"], "status": GOOD}
    if not counts[GOOD]:
        first = next((row for row in rows if row["status"] == "model_nonfinite"), rows[0])
        about |= {"status": first["status"], "reason": first.get("reason")}
    return about
