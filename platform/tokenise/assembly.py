"""Parts to a token folder's two large files, written in one pass with one part in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.errors import InputError
from ..core.whole_files import PARQUET, ROWS_PER_GROUP, streamed
from ..datasets.tokens.folder import DOCUMENTS, TABLE, TOKENS, Counts
from .worker import EMPTY, LIMIT


@dataclass
class Assembled:
    """What was put together. files: name -> sha256."""

    sets: dict[str, Counts] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """Over all sets."""
        return Counts(**{name: sum(getattr(c, name) for c in self.sets.values()) for name in Counts.model_fields})


def assemble(parts: Iterable[pa.Table], out: Path, *, bytes_per_token: int, bad_limit: int) -> Assembled:
    """Write tokens.bin and documents.parquet of `parts`, the tables of `worker.part_schema` in the corpus's order.

    Row groups have a fixed number of documents, so that the files do not depend on how the work was cut. Raises
    InputError, and leaves no file, where more than `bad_limit` records are broken or there is no document at all.
    """
    made = Assembled()
    first_bad: str | None = None
    with streamed(out / TOKENS) as tokens, streamed(out / TABLE) as table:
        with pq.ParquetWriter(table, DOCUMENTS, **PARQUET) as writer:
            waiting = DOCUMENTS.empty_table()
            offset = 0
            for part in parts:
                broken = part.filter(pc.is_valid(part["problem"]))
                made.left_out.update(broken["problem"].to_pylist())
                first_bad = first_bad or next((where for where in broken["where"].to_pylist() if where), None)
                _refuse_broken(made.left_out, bad_limit, first_bad)
                rows = _documents(part.filter(pc.is_null(part["problem"])), offset, bytes_per_token, tokens)
                offset += pc.sum(rows["tokens"]).as_py() or 0
                _count(rows, made.sets)
                waiting = pa.concat_tables([waiting, rows])
                while len(waiting) >= ROWS_PER_GROUP:
                    writer.write_table(waiting.slice(0, ROWS_PER_GROUP).combine_chunks(), ROWS_PER_GROUP)
                    waiting = waiting.slice(ROWS_PER_GROUP).combine_chunks()
            if len(waiting):
                writer.write_table(waiting.combine_chunks(), ROWS_PER_GROUP)
        if not made.sets:
            raise InputError(f"{out}: the files hold no document ({made.left_out.total()} records were left out)")
    made.files = {TOKENS: tokens.sha256, TABLE: table.sha256}
    made.sets = dict(sorted(made.sets.items()))
    return made


def _refuse_broken(left_out: Counter[str], limit: int, first: str | None) -> None:
    broken = {reason: n for reason, n in sorted(left_out.items()) if reason != EMPTY}
    if sum(broken.values()) > limit:
        counted = ", ".join(f"{reason}: {n}" for reason, n in broken.items())
        raise InputError(f"{first} (so far {counted}; {LIMIT} is {limit}); repair the file, or raise the limit")


def _documents(part: pa.Table, offset: int, bytes_per_token: int, tokens: Any) -> pa.Table:
    """The rows of documents.parquet for a part's documents; their tokens are written to `tokens`."""
    for chunk in part["tokens"].chunks:
        _, ends, values = chunk.buffers()
        first, last = np.frombuffer(ends, dtype=np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
        tokens.write(memoryview(values)[first:last])
    lengths = pc.binary_length(part["tokens"]).cast(pa.int64()).to_numpy() // bytes_per_token
    offsets = offset + np.cumsum(lengths) - lengths
    columns = [part["set"], offsets.astype(np.uint64), lengths.astype(np.uint32), part["bytes"], part["hash"]]
    return pa.Table.from_arrays(columns, schema=DOCUMENTS)


def _count(rows: pa.Table, sets: dict[str, Counts]) -> None:
    grouped = rows.group_by("set", use_threads=False).aggregate([("set", "count"), ("bytes", "sum"), ("tokens", "sum")])
    for row in grouped.to_pylist():
        there = sets.get(row["set"], Counts())
        sets[row["set"]] = Counts(
            documents=there.documents + row["set_count"],
            bytes=there.bytes + row["bytes_sum"],
            tokens=there.tokens + row["tokens_sum"],
        )
