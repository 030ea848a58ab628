"""`run_table`: a list of items in, one Arrow table out, computed by workers, resumable, byte-identical however it ran.

The items are cut into shards from the data alone; each shard's rows become one Parquet part in `out_dir`, named by its
digest and entered in the ledger; the table is the parts put together and sorted. What happened on the way (attempts,
deaths, resumes) is in the ledger and in `progress`, never in the table.

Interrupted, it continues where it was: a part counts when the ledger has it and its bytes have the digest written
there; a damaged one is set aside in `damaged/` and computed again; a part whose ledger line was never written is
adopted if it says itself that it belongs to this plan and shard. Only an item that kills every worker leaves a trace
in the table: its row has status `worker_lost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.errors import UsageError
from .answers import Answers
from .ledger import Ledger
from .parts import Parts
from .plan import Shard, plan_digest, plan_shards
from .pool import WorkerFactory
from .scheduler import DEFAULT_LIMITS, Job, Limits, Made, run_shards
from .session import Session


@dataclass(frozen=True)
class Progress:
    """Where a table is; `note` says what was out of the ordinary, and is empty otherwise; `detail` is shown behind the
    count, such as a loss."""

    name: str
    shards_done: int
    shards: int
    rows_done: int
    rows: int
    resumed_shards: int  # of those done, how many an earlier run had made
    note: str = ""
    detail: str = ""


def run_table(
    name: str,
    items: Sequence[Mapping[str, Any]],
    factory: WorkerFactory,
    *,
    out_dir: Path,
    session: Session,
    batch_size: int,
    sort_by: Sequence[str],
    schema: pa.Schema,
    semantic_key: Mapping[str, Any],
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
    lengths: Sequence[int] | None = None,
    id_column: str | None = "id",
    rows_per_item: int | None = 1,
    lost_row: Callable[[Mapping[str, Any], str], Mapping[str, Any]] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> pa.Table:
    """Compute the rows of `items` and return them as one table in `schema`, sorted by `sort_by`.

    - `items` are plain JSON; a worker's payload is `{"shard": key, "items": [...]}` and its answer a table in `schema`
      with `rows_per_item` rows for each (None: any number). Where both have `id_column`, the ids of the answer must be
      those of the items.
    - `lengths` (tokens, characters) puts items of like length into one batch.
    - `semantic_key` holds everything else that can change a row (model digest, settings, versions, seeds): a folder
      made under another key is refused, or started over with `fresh`.
    - `lost_row` makes the row of an item that kills every worker, from the item and the reason; by default the item's
      own fields that the schema has, status `worker_lost`, and nulls.

    Raises UsageError where lengths or columns to sort by do not fit, and what `run_shards` raises.
    """
    if unknown := [column for column in sort_by if column not in schema.names]:
        raise UsageError(f"{name}: cannot sort by {', '.join(unknown)}, the schema has {', '.join(schema.names)}")
    with made_parts(
        name, items, factory, out_dir=out_dir, session=session, batch_size=batch_size, schema=schema,
        semantic_key=semantic_key, fresh=fresh, progress=progress, lengths=lengths, id_column=id_column,
        rows_per_item=rows_per_item, lost_row=lost_row, limits=limits,
    ) as tables:  # fmt: skip
        table = pa.concat_tables([*tables] or [schema.empty_table()])
    if sort_by:
        table = table.sort_by([(column, "ascending") for column in sort_by])  # stable: ties keep the plan's order
    return table.combine_chunks()


@contextmanager
def made_parts(
    name: str,
    items: Sequence[Mapping[str, Any]],
    factory: WorkerFactory,
    *,
    out_dir: Path,
    session: Session,
    batch_size: int,
    schema: pa.Schema,
    semantic_key: Mapping[str, Any],
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
    lengths: Sequence[int] | None = None,
    id_column: str | None = "id",
    rows_per_item: int | None = 1,
    lost_row: Callable[[Mapping[str, Any], str], Mapping[str, Any]] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    compressed: bool = True,
) -> Iterator[Iterator[pa.Table]]:
    """`run_table` for rows that do not fit into memory together: all parts are made, then the table of one shard after
    the other is read, in the order of the plan. compressed: the parts on the disk."""
    if lengths is not None and len(lengths) != len(items):
        raise UsageError(f"{name}: {len(lengths)} lengths for {len(items)} items")
    shards = plan_shards(len(items) if lengths is None else lengths, batch_size)
    plan = plan_digest(name, shards, items, schema=schema.to_string(), semantic_key=semantic_key)
    answers = Answers(name, items, schema, id_column, rows_per_item, lost_row)
    with Ledger(Path(out_dir), plan, fresh=fresh) as ledger:
        parts = Parts(ledger, plan, schema, compressed=compressed)
        parts.tidy(shards)
        teller = _Teller(name, shards, progress)
        if ledger.damaged:
            lines = ", ".join(map(str, ledger.damaged))
            teller.note(f"{ledger.path}: damaged in line {lines}; the parts say what it said, or are made again")
        missing = [shard for shard in shards if not parts.has(shard, teller.note)]
        teller.start(missing)

        def commit(shard: Shard, table: pa.Table, made: Made) -> None:
            if parts.commit(shard, table, made):
                teller.tick(shard)

        job = Job(
            payload=lambda shard, chosen: {"shard": shard.key, "items": [dict(items[i]) for i in chosen]},
            check=answers.check,
            commit=commit,
            lost_row=answers.lost,
            note=teller.note,
            name=name,
        )
        if missing:
            with session.pool(factory, at_most=len(missing)) as pool:
                run_shards(missing, pool, job, limits=limits)
        yield (parts.read(shard) for shard in shards)


class _Teller:
    """Counts shards and rows for `progress`."""

    def __init__(self, name: str, shards: Sequence[Shard], tell: Callable[[Progress], None] | None) -> None:
        self.name, self.tell = name, tell
        self.total, self.rows = len(shards), sum(len(shard.items) for shard in shards)
        self.done = self.rows_done = self.resumed = 0

    def start(self, missing: Sequence[Shard]) -> None:
        self.resumed = self.done = self.total - len(missing)
        self.rows_done = self.rows - sum(len(shard.items) for shard in missing)
        self.note("")

    def tick(self, shard: Shard) -> None:
        self.done += 1
        self.rows_done += len(shard.items)
        self.note("")

    def note(self, text: str) -> None:
        if self.tell is not None:
            self.tell(Progress(self.name, self.done, self.total, self.rows_done, self.rows, self.resumed, text))
