"""How much of every set was kept, counted from the table of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

ALL = "all"


class SetCounts(NamedTuple):
    """One set. tokens: of the teacher; kept_documents: those of which anything is kept."""

    name: str
    documents: int
    chunks: int
    bytes: int
    tokens: int
    kept_documents: int
    kept_chunks: int
    kept_bytes: int
    kept_tokens: int

    def values(self) -> dict[str, int]:
        """The counts by name."""
        counts = self._asdict()
        del counts["name"]
        return counts


def count_sets(table: pa.Table) -> list[SetCounts]:
    """Every set of a table of chunks, by name, then all of them together."""
    rows = table.select(["document", "set", "bytes", "teacher_tokens", "kept"]).to_pylist()
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["set"], []).append(row)
    return [_counted(name, of_set) for name, of_set in [*sorted(by_name.items()), (ALL, rows)]]


def nats_per_byte(table: pa.Table) -> dict[str, float | None]:
    """Of the reference and of the teacher, over the chunks with a score; None where there is none."""
    rows = [row for row in table.select(["bytes", "reference_nll", "teacher_nll", "score"]).to_pylist()
            if row["score"] is not None]  # fmt: skip
    n_bytes = sum(row["bytes"] for row in rows)
    return {
        role: sum(row[f"{role}_nll"] for row in rows) / n_bytes if n_bytes else None
        for role in ("reference", "teacher")
    }


def _counted(name: str, rows: Sequence[dict[str, Any]]) -> SetCounts:
    counts = []
    for chosen in (rows, [row for row in rows if row["kept"]]):
        documents = len({row["document"] for row in chosen})
        counts += [documents, len(chosen), sum(row["bytes"] for row in chosen)]
        counts.append(sum(row["teacher_tokens"] or 0 for row in chosen))
    return SetCounts(name, *counts)
