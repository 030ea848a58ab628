"""Columns of result tables that say what they mean, and the ranks in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


def column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """A field with its meaning in its metadata, where `pyarrow.parquet.read_schema` shows it."""
    return pa.field(name, kind, metadata={"meaning": meaning})


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """1 for the largest value, 2 for the next; ties in the order given."""
    order = np.argsort(-np.asarray(values, np.float64), kind="stable")
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(1, len(order) + 1)
    return result
