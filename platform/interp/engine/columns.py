"""Columns of result tables that say what they mean, and the ranks in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


def column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """A field with its meaning in its metadata, where `pyarrow.parquet.read_schema` shows it."""
    return pa.field(name, kind, metadata={"meaning": meaning})


def bounded(name: str, meaning: str, units: str = "prompts") -> list[pa.Field]:
    """A column and the two of its bootstrap interval over such `units`."""
    return [
        column(name, pa.float64(), meaning),
        column(
            f"{name}_low", pa.float64(), f"lower end of its bootstrap interval over {units}; null for fewer than two"
        ),
        column(f"{name}_high", pa.float64(), "upper end"),
    ]


def number(value: float) -> float | None:
    """As a table holds it: null for what is not finite."""
    return float(value) if np.isfinite(value) else None


def tied_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1 for the smallest value; equal ones share the mean of their ranks, as rank correlations have it."""
    _, which, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """1 for the largest value, 2 for the next; ties in the order given."""
    order = np.argsort(-np.asarray(values, np.float64), kind="stable")
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(1, len(order) + 1)
    return result
