"""Averages over prompts of what a step says of each, with bootstrap intervals; the unit is the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from ..engine.columns import column
from ..engine.statuses import GOOD
from ..engine.step import Tables
from .averages import bootstrap_means

CONFIDENCE, RESAMPLES = 0.95, 2000


def with_averages(prompts: pa.Table, keys: Sequence[str], value: str, seed: int) -> Tables:
    """The tables of a step: `prompts`, as given, and `averages`, see `averages_over_prompts`."""
    return {"prompts": prompts, "averages": averages_over_prompts(prompts, keys, value, seed)}


def averages_over_prompts(rows: pa.Table, keys: Sequence[str], value: str, seed: int) -> pa.Table:
    """The mean of `value` for each combination of `keys`, in the order in which they occur, over the prompts that have
    a value there. A prompt's rows of one combination are averaged first. Rows that are not ok do not count."""
    schema = pa.schema([
        *(rows.schema.field(key) for key in keys),
        column("mean", pa.float64(), f"mean over prompts of {value}"),
        column("low", pa.float64(), "lower end of its percentile bootstrap interval; null for fewer than two prompts"),
        column("high", pa.float64(), "upper end"),
        column("prompts", pa.int32(), "prompts that have a value here"),
    ])  # fmt: skip
    good = rows.filter((compute.field("status") == GOOD) & compute.field(value).is_valid()).to_pylist()
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in good:
        cells.setdefault(tuple(row[key] for key in keys), {}).setdefault(row["id"], []).append(row[value])
    ids = list(dict.fromkeys(row["id"] for row in good))
    grid = np.array([[float(np.mean(cell.get(id_, [np.nan]))) for cell in cells.values()] for id_ in ids], np.float64)
    if not cells:
        return schema.empty_table()
    found = bootstrap_means(grid, CONFIDENCE, RESAMPLES, seed)
    ends = [[float(end) if np.isfinite(end) else None for end in side] for side in (found.low, found.high)]
    made = [
        dict(zip(keys, cell, strict=True))
        | {"mean": float(found.mean[i]), "low": ends[0][i], "high": ends[1][i], "prompts": len(of)}
        for i, (cell, of) in enumerate(cells.items())
    ]
    return pa.Table.from_pylist(made, schema=schema)
