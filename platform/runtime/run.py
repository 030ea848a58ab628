"""A run under way: what it writes stands in its record, and its jobs continue where an interrupted run was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.observer import Observer
from ..core.whole_files import Published, copy_files, publish_bytes, publish_json, replace_table
from .ledger import cut_shards
from .plan import digest_of
from .pool import WorkerFactory
from .record import RunRecord
from .session import Session
from .table_job import made_parts, run_table


def in_pieces(name: str, shards: int) -> str:
    """What is to be said of a table with shards that were cut."""
    return (
        f"{name}: {shards} of its batches took too many workers down, or too much memory, and were computed in pieces; "
        "their last bits may differ from those of an undisturbed run"
    )


class Run:
    """A run under way. What it writes through here stands in its record."""

    def __init__(self, record: RunRecord, path: Path, session: Session | None, observer: Observer, fresh: bool) -> None:
        self.record, self.out, self.path, self.session = record, path.parent, path, session
        self.observer, self.fresh = observer, fresh

    def update(self, **sections: Any) -> None:
        """Enter `sections` of the record, as plain values, and write it; a mapping is added to what there is."""
        values = self.record.model_dump()
        for name, value in sections.items():
            values[name] = {**values[name], **value} if isinstance(values[name], dict) else value
        if self.session is not None and values["backend"] is not None:
            there = self.session.describe()
            values["backend"] |= {"threads": there["threads_per_actor"], "session": there}
        self.record = RunRecord.of(values)
        publish_json(self.record.model_dump(mode="json"), self.path)

    def table(self, name: str, table: pa.Table) -> None:
        """Write `table` as the result `name`."""
        self.update(files={name: replace_table(table, self.out / name).sha256})

    def json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write `values` as the result `name`."""
        self.update(files={name: publish_json(values, self.out / name).sha256})

    def bytes(self, name: str, data: bytes) -> None:
        """Write `data` as the result `name`."""
        self.update(files={name: publish_bytes(data, self.out / name).sha256})

    def copies(self, files: Mapping[str, Published]) -> None:
        """Copy whole files as the results that are named."""
        copy_files({self.out / name: whole for name, whole in files.items()})
        self.update(files={name: whole.sha256 for name, whole in files.items()})

    def job(
        self,
        name: str,
        items: Sequence[Mapping[str, Any]],
        worker: str,
        *,
        opens: Mapping[str, Any],
        arguments: Mapping[str, Any],
        key: Mapping[str, Any],
        schema: pa.Schema,
        sort_by: Sequence[str],
        batch_size: int,
        files: Mapping[str, Sequence[str]] | None = None,
        needs: Sequence[str] = (),
        lost: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> pa.Table:
        """The rows of `items`, made by workers, in a folder below work/ that is named by all that decides them.

        worker: `module:function`, called with `opens` (where a worker finds what it needs; decides no row) and
        `arguments`, which with `key` decide the rows. files, needs: see `WorkerFactory`. lost: the fields, besides
        those of the item itself, of the row of an item that kills every worker. more: as for `run_table`.
        """

        def lost_row(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
            assert lost is not None
            known = {name: value for name, value in item.items() if name in schema.names}
            return {**known, **lost(item), "status": "worker_lost", "reason": reason}

        factory = WorkerFactory(worker, {**opens, **arguments}, files or {}, needs)
        where = self._where(name, items, factory, arguments, key, batch_size)
        table = run_table(
            **where, schema=schema, sort_by=list(sort_by), lost_row=None if lost is None else lost_row, **more
        )
        self._say_cut(name, where["out_dir"])
        return table

    @contextmanager
    def parts(
        self,
        name: str,
        items: Sequence[Mapping[str, Any]],
        worker: str,
        *,
        opens: Mapping[str, Any],
        arguments: Mapping[str, Any],
        key: Mapping[str, Any],
        schema: pa.Schema,
        batch_size: int,
        files: Mapping[str, Sequence[str]] | None = None,
        needs: Sequence[str] = (),
        **more: Any,
    ) -> Iterator[Iterator[pa.Table]]:
        """As `job`, for rows that do not fit into memory together: a table for every shard, in the order of `items`."""
        factory = WorkerFactory(worker, {**opens, **arguments}, files or {}, needs)
        where = self._where(name, items, factory, arguments, key, batch_size)
        with made_parts(**where, schema=schema, **more) as tables:
            self._say_cut(name, where["out_dir"])
            yield tables

    def _say_cut(self, name: str, folder: Path) -> None:
        """Which shards were computed in pieces, in the record and in a warning."""
        if cut := cut_shards(folder):
            self.update(details={"cut": {**self.record.details.get("cut", {}), name: cut}})
            self.observer.warn(in_pieces(name, len(cut)))

    def _where(
        self,
        name: str,
        items: Sequence[Mapping[str, Any]],
        factory: WorkerFactory,
        arguments: Mapping[str, Any],
        key: Mapping[str, Any],
        batch_size: int,
    ) -> dict[str, Any]:
        """What `run_table` and `made_parts` take alike."""
        assert self.session is not None
        decides = {"arguments": digest_of(dict(arguments)), **key}
        folder = digest_of({"key": decides, "items": digest_of(items), "batch": batch_size})[:12]
        return {
            "name": name,
            "items": items,
            "factory": factory,
            "out_dir": self.out / "work" / f"{name}-{folder}",
            "session": self.session,
            "batch_size": batch_size,
            "semantic_key": decides,
            "fresh": self.fresh,
            "progress": self.observer.progress,
        }
