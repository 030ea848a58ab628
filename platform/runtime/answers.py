"""Whether a worker's table is an answer to its items, and the row that stands for an item without an answer.

A wrong answer is a bug of the worker and ends the run; nothing is repaired, dropped or filled in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..core.errors import ToleranceError
from .plan import Shard
from .pool import WorkerError


class Answers:
    """The checks of one table job."""

    def __init__(
        self,
        name: str,
        items: Sequence[Mapping[str, Any]],
        schema: pa.Schema,
        id_column: str | None,
        rows_per_item: int | None,
        lost_row: Callable[[Mapping[str, Any], str], Mapping[str, Any]] | None,
    ) -> None:
        self.name, self.items, self.schema = name, items, schema
        self.rows_per_item, self.lost_row = rows_per_item, lost_row
        self.id_column = id_column if id_column in schema.names and all(id_column in i for i in items) else None

    def check(self, shard: Shard, chosen: tuple[int, ...], table: pa.Table) -> None:
        """Raise WorkerError unless `table` has the schema, and the rows of exactly the `chosen` items."""
        where = f"{self.name}, shard {shard.key}: the worker returned"
        if not table.schema.equals(self.schema, check_metadata=False):
            raise WorkerError(f"{where} other columns: {_difference(self.schema, table.schema)}")
        if self.rows_per_item is not None and table.num_rows != self.rows_per_item * len(chosen):
            raise WorkerError(f"{where} {table.num_rows} rows for {len(chosen)} items")
        if self.id_column is not None:
            wanted = Counter(self.items[i][self.id_column] for i in chosen)
            returned = Counter(table.column(self.id_column).to_pylist())
            same = (
                set(returned) <= set(wanted)
                if self.rows_per_item is None
                else (returned == Counter({key: count * self.rows_per_item for key, count in wanted.items()}))
            )
            if not same:
                odd = next(iter((returned - wanted) or (wanted - returned)), None)
                raise WorkerError(f"{where} rows of other items, for one {self.id_column} {odd!r}")

    def lost(self, item: int, reason: str) -> pa.Table:
        """One row with status `worker_lost`; an error where the schema has no way to say so."""
        given = self.items[item]
        if self.lost_row is not None:
            row = dict(self.lost_row(given, reason))
        elif "status" in self.schema.names:
            row = {key: given.get(key) for key in self.schema.names} | {"status": "worker_lost"}
        else:
            raise ToleranceError(
                f"{self.name}: item {item} kills every worker ({reason}), and the table has no status "
                "column to say so; remove the item"
            )
        empty = [f.name for f in self.schema if not f.nullable and row.get(f.name) is None]
        if empty:
            raise ToleranceError(
                f"{self.name}: item {item} kills every worker ({reason}), and its row cannot leave "
                f"{', '.join(empty)} empty; remove the item"
            )
        return pa.Table.from_pylist([row], schema=self.schema)


def _difference(wanted: pa.Schema, returned: pa.Schema) -> str:
    """The first columns that differ, as wanted -> returned."""
    texts = []
    for name in dict.fromkeys([*wanted.names, *returned.names]):
        pair = [_type(s, name) for s in (wanted, returned)]
        if pair[0] != pair[1]:
            texts.append(f"{name} ({pair[0]} -> {pair[1]})")
    return "; ".join(texts[:3]) or "they are in another order"


def _type(schema: pa.Schema, name: str) -> str:
    if name not in schema.names:
        return "absent"
    field = schema.field(name)
    return f"{field.type}" if field.nullable else f"{field.type} not null"
