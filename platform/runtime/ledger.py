"""The ledger of a run: which shards are finished, one fsynced JSON line each, written by the driver alone.

The first line names the plan by its digest; under another plan the ledger is not continued, and the error names what
differs. A last line that is not whole was being written when its writer died: it is dropped, and its shard is done
again. Any other broken line is damage and an error. A shard counts as finished when the ledger says so *and* its file
has the digest written here; the ledger itself does not look at the files.

Entries carry times for the reader's comfort; nothing depends on them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.errors import InputError, UsageError
from ..core.folder_lock import FolderLock
from ..core.whole_files import write_errors
from .plan import PlanDigest

LEDGER_NAME = "ledger.jsonl"
LOCK_NAME = ".lock"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A finished shard."""

    shard: str
    index: int
    file: str
    sha256: str
    rows: int
    attempts: int  # 1 + how often its worker failed or died before; 0 where the file of an interrupted run was adopted
    split: bool  # whether it was computed in pieces because it kept killing its worker
    seconds: float
    at: float  # seconds since 1970


@dataclass(frozen=True)
class LedgerContent:
    """What a ledger file says; `header` is None where not even the first line is whole."""

    header: dict[str, Any] | None
    entries: dict[str, Entry]  # by shard key; the last line of a shard counts
    whole_bytes: int  # length of the file without a torn last line


def read_ledger(path: Path) -> LedgerContent:
    """Read a ledger without locking it; a missing file is an empty ledger. Raises InputError for a damaged one."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return LedgerContent(None, {}, 0)
    header: dict[str, Any] | None = None
    entries: dict[str, Entry] = {}
    position = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line if line.endswith(b"\n") else b"")
        except ValueError as error:
            if number == len(lines):
                break  # torn: its writer died while writing it
            raise InputError(f"{path}:{number}: damaged ledger line; run again with --fresh") from error
        try:
            if number == 1:
                header = _header(value)
            else:
                entry = Entry(**value)
                entries[entry.shard] = entry
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}:{number}: not a line of this ledger ({error}); run again with --fresh") from error
        position += len(line)
    return LedgerContent(header, entries, position)


class Ledger:
    """The open ledger of one folder: locked, positioned after its last whole line."""

    def __init__(self, folder: Path, plan: PlanDigest, *, fresh: bool = False) -> None:
        """Lock `folder` and continue its ledger, or start one.

        Raises UsageError where another driver holds the folder, or where the ledger there was made under another
        plan and `fresh` is false.
        """
        self.folder = Path(folder)
        self.path = self.folder / LEDGER_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder / LOCK_NAME)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be used as a run folder ({error.strerror}); choose another with --out"
            ) from error
        try:
            content = LedgerContent(None, {}, 0) if fresh else read_ledger(self.path)
            if content.header is not None and content.header["plan"] != plan.digest:
                raise UsageError(
                    f"{self.folder} holds results of another plan: {plan.first_difference(content.header['parts'])} "
                    f"differs; use --fresh to start over or another --out"
                )
            self.entries = content.entries
            self.fresh = fresh
            self._file = open(self.path, "ab")
            self._file.truncate(content.whole_bytes)
            if content.header is None:
                self._line({"ledger": VERSION, "plan": plan.digest, "parts": dict(plan.parts)})
        except BaseException:
            self._lock.release()
            raise

    def append(self, entry: Entry) -> None:
        """Make `entry` durable. An entry equal to the one the shard has is a no-op."""
        known = self.entries.get(entry.shard)
        if known is not None and (known.sha256, known.file) == (entry.sha256, entry.file):
            return
        self._line(dataclasses.asdict(entry))
        self.entries[entry.shard] = entry

    def close(self) -> None:
        """Close the file and release the folder."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, value: dict[str, Any]) -> None:
        with write_errors(self.path):
            self._file.write((json.dumps(value, allow_nan=False) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def now() -> float:
    """Seconds since 1970, to the millisecond, for entries."""
    return round(time.time(), 3)


def _header(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("parts"), dict) or "plan" not in value:
        raise ValueError("not a ledger header")
    if value.get("ledger") != VERSION:
        raise ValueError(f"ledger version {value.get('ledger')}, this mplat reads {VERSION}")
    return value
