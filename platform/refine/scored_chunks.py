"""The table of all chunks with both likelihoods, their score, and whether they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .selection import scores, select

if TYPE_CHECKING:
    from ..datasets.readers.pile import Document
    from .chunks import Chunk

Per = Literal["token", "byte"]

SCORES_SCHEMA = pa.schema(
    [
        pa.field("chunk", pa.int64(), nullable=False),  # number in corpus order
        pa.field("document", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # characters of the document
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),  # of its UTF-8
        pa.field("reference_tokens", pa.int64()),
        pa.field("teacher_tokens", pa.int64()),
        pa.field("reference_nll", pa.float64()),  # nats, summed over the chunk
        pa.field("teacher_nll", pa.float64()),
        pa.field("score", pa.float64()),  # nats a token or byte; null where either likelihood is missing
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok, or that of the model that has no likelihood
        pa.field("reason", pa.string()),
    ]
)


class ScoredChunks(NamedTuple):
    """table: SCORES_SCHEMA in corpus order; threshold: the lowest score that is kept, None where nothing is."""

    table: pa.Table
    kept: NDArray[np.bool_]
    threshold: float | None


def score_chunks(
    chunks: Sequence[Chunk],
    documents: Sequence[Document],
    reference: pa.Table,
    teacher: pa.Table,
    per: Per,
    keep: float,
) -> ScoredChunks:
    """What the workers' tables `reference` and `teacher`, both a row for every chunk in corpus order, come to."""
    nll = {role: -_floats(table["log_likelihood"]) for role, table in (("reference", reference), ("teacher", teacher))}
    n_bytes = np.array([len(chunk.text.encode()) for chunk in chunks], dtype=np.float64)
    units = n_bytes if per == "byte" else _floats(teacher["n_tokens"])
    found = scores(nll["reference"], nll["teacher"], units)
    kept, threshold = select(found, keep)
    of = [documents[chunk.document] for chunk in chunks]
    status, reason = _statuses(reference, teacher)
    columns = {
        "chunk": np.arange(len(chunks)),
        "document": [document.id for document in of],
        "set": [document.set_name for document in of],
        "start": [chunk.start for chunk in chunks],
        "stop": [chunk.stop for chunk in chunks],
        "bytes": n_bytes.astype(np.int64),
        "reference_tokens": reference["n_tokens"],
        "teacher_tokens": teacher["n_tokens"],
        "reference_nll": pa.array(nll["reference"], mask=np.isnan(nll["reference"])),
        "teacher_nll": pa.array(nll["teacher"], mask=np.isnan(nll["teacher"])),
        "score": pa.array(found, mask=np.isnan(found)),
        "kept": kept,
        "status": status,
        "reason": reason,
    }
    return ScoredChunks(pa.table(columns, schema=SCORES_SCHEMA), kept, threshold)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """With NaN where there is no value."""
    return np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)


def _statuses(reference: pa.Table, teacher: pa.Table) -> tuple[list[str], list[str | None]]:
    """Of each chunk the status of the first model that has no likelihood for it, and why."""
    statuses, reasons = [], []
    for small, large in zip(reference.to_pylist(), teacher.to_pylist(), strict=True):
        role, row = ("reference", small) if small["status"] != "ok" else ("teacher", large)
        statuses.append(row["status"])
        reasons.append(None if row["status"] == "ok" else f"{role}: {row['reason']}")
    return statuses, reasons
