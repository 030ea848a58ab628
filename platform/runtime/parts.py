"""The Parquet parts of one folder and what its ledger says about them.

A part is one shard's rows, named `part-<index>-<digest>.parquet`, with the plan and the shard in its footer. It
counts when the ledger has it and its bytes have the digest written there. On opening, what dead writers left is
removed, a part whose ledger line was never written is adopted if it says itself that it belongs here, and a damaged
one is set aside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from ..core.errors import InputError, UsageError
from ..core.inside import leads_out
from ..core.whole_files import NonDeterministicError, is_unfinished, publish_table, read_table, sha256_of, table_bytes
from .ledger import Entry, Ledger, now
from .part_marks import PART, PLAN, SHARD
from .plan import PlanDigest, Shard
from .scheduler import Made


class Parts:
    """The parts of the folder of `ledger`, for one plan.

    Packing takes the driver six times as long as writing: large parts that are soon deleted are not `compressed`.
    """

    def __init__(self, ledger: Ledger, plan: PlanDigest, schema: pa.Schema, *, compressed: bool = True) -> None:
        self.ledger, self.folder, self.plan, self.schema = ledger, ledger.folder, plan, schema
        self.compressed = compressed
        self.verified: set[str] = set()  # shards whose file was read or written by this run

    def tidy(self, shards: Sequence[Shard]) -> None:
        """Remove what dead writers and earlier plans left; adopt whole parts that lack their ledger line."""
        by_index = {shard.index: shard for shard in shards}
        known = {entry.file for entry in self.ledger.entries.values()}
        for path in sorted(self.folder.iterdir()):
            match = PART.fullmatch(path.name)
            if path.is_dir() and not path.is_symlink():
                continue
            if is_unfinished(path):
                path.unlink()
            elif match and path.name not in known:
                shard = by_index.get(int(match[1]))
                if shard is None or self.ledger.fresh or not self._adopt(shard, path):
                    path.unlink()

    def has(self, shard: Shard, note: Callable[[str], None]) -> bool:
        """Whether the shard's part is there and whole; a damaged one is set aside."""
        entry = self.ledger.entries.get(shard.key)
        if entry is None:
            return False
        path = self.folder / entry.file
        if not path.exists():
            note(f"{path} is gone; shard {shard.key} is computed again")
            return False
        try:
            read_table(path, entry.sha256, advice="")
        except InputError as error:
            aside = self.folder / "damaged"
            if leads_out(aside, self.folder):
                raise UsageError(f"{aside}: is a symbolic link out of its folder; remove it") from error
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
            note(f"{error}; it is moved to {aside} and computed again")
            return False
        self.verified.add(shard.key)
        return True

    def commit(self, shard: Shard, table: pa.Table, made: Made) -> bool:
        """Publish the part and enter it in the ledger; False where this run did so already, with the same bytes."""
        table = self._marked(shard, table)
        digest = sha256_of(data := table_bytes(table, compressed=self.compressed))
        entry = self.ledger.entries.get(shard.key)
        if entry is not None and entry.sha256 != digest:
            raise self._two_answers(shard, entry.sha256, digest)
        if shard.key in self.verified:
            return False
        published = publish_table(table, self.folder / self._name(shard, digest), data=data)
        self._enter(shard, published.path, published.sha256, published.rows, made)
        return True

    def read(self, shard: Shard) -> pa.Table:
        """The rows of a committed shard, without the marks of its file."""
        entry = self.ledger.entries[shard.key]
        return read_table(self.folder / entry.file, entry.sha256).cast(self.schema)

    def _adopt(self, shard: Shard, path: Path) -> bool:
        if leads_out(path, self.folder):
            return False
        try:
            table = read_table(path)
        except InputError:
            return False
        digest = sha256_of(path.read_bytes())
        belongs = self._mark(shard).items() <= (table.schema.metadata or {}).items()
        if not belongs or path.name != self._name(shard, digest):
            return False
        entry = self.ledger.entries.get(shard.key)
        if entry is not None:
            raise self._two_answers(shard, entry.sha256, digest)
        self._enter(shard, path, digest, table.num_rows, Made(attempts=0, split=False, seconds=0.0))
        return True

    def _two_answers(self, shard: Shard, one: str, other: str) -> NonDeterministicError:
        return NonDeterministicError(
            f"non-deterministic step: shard {shard.key} in {self.folder} was made with sha256 {one} and also with "
            f"{other}; look for an unseeded generator or an unordered set, then run again with --fresh"
        )

    def _enter(self, shard: Shard, path: Path, digest: str, rows: int, made: Made) -> None:
        self.ledger.append(
            Entry(shard.key, shard.index, path.name, digest, rows, made.attempts, made.split, made.seconds, now())
        )
        self.verified.add(shard.key)

    def _name(self, shard: Shard, digest: str) -> str:
        return f"part-{shard.index:05d}-{digest[:16]}.parquet"

    def _mark(self, shard: Shard) -> dict[bytes, bytes]:
        return {PLAN: self.plan.digest.encode(), SHARD: shard.key.encode()}

    def _marked(self, shard: Shard, table: pa.Table) -> pa.Table:
        """In the wanted schema, with the plan and shard in the footer, so that the file says where it belongs."""
        return table.cast(self.schema).replace_schema_metadata({**(self.schema.metadata or {}), **self._mark(shard)})
