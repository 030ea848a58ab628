"""The ledger of a run: which shards are finished, one fsynced JSON line each, written by the driver alone.

The first line names the plan by its digest; under another plan the ledger is not continued, and the error names what
differs. Every line has a checksum, `check`; one of an earlier version has none and is believed. A last line that is not
whole was being written when its writer died: it is dropped, and its shard is done again. Any other damaged line is
dropped too, and said: its shard's file tells itself where it belongs (`parts`). Where the first line is damaged, all
parts in the folder have to say that they are of this plan, and it is written anew; else nothing says whose results
these are, which is an error. A shard counts as finished when the ledger says so *and* its file has
the digest written here; the ledger itself does not look into the files, but it names none outside of its folder.

Entries carry times for the reader's comfort; nothing depends on them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.errors import InputError, UsageError
from ..core.folder_lock import FolderLock
from ..core.inside import leads_down, leads_out, open_itself
from ..core.json_files import parse
from ..core.whole_files import publish_bytes, write_errors
from .part_marks import plans_in
from .plan import PlanDigest, digest_of

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


class DamagedFirstLine(InputError):
    """The first line of a ledger is not what was written."""


class _OtherVersion(ValueError):
    """It is whole, and of a version that is not read."""


@dataclass(frozen=True)
class LedgerContent:
    """What a ledger file says; `header` is None where not even the first line is whole."""

    header: dict[str, Any] | None
    entries: dict[str, Entry]  # by shard key; the last line of a shard counts
    whole: bytes  # the lines that are whole, as they are in the file
    damaged: tuple[int, ...] = ()  # numbers of the lines that are not, without a torn last one


def read_ledger(path: Path, *, header: Mapping[str, Any] | None = None) -> LedgerContent:
    """Read a ledger without locking it; a missing file is an empty ledger. header: in place of a damaged first line.

    Raises InputError where its first line is damaged or a line names a file outside of its folder."""
    path = Path(path)
    try:
        if leads_out(path, path.parent):
            raise InputError(f"{path}: is a symbolic link out of its folder; remove it")
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return LedgerContent(None, {}, b"")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run again with --fresh") from error
    found: dict[str, Any] | None = None
    entries: dict[str, Entry] = {}
    whole, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            if number == 1:
                found = _header(_checked(line))
            else:
                entry = _entry(_checked(line))
                entries[entry.shard] = entry
        except (ValueError, TypeError) as error:
            damaged.append(number)
            if number > 1:
                continue
            if header is None or isinstance(error, _OtherVersion):
                kind = InputError if isinstance(error, _OtherVersion) else DamagedFirstLine
                raise kind(f"{path}:1: not a line of this ledger ({error}); run again with --fresh") from error
            found = dict(header)
            whole.append(_line(found))
        else:
            whole.append(line + b"\n")
    for entry in entries.values():
        if not leads_down(entry.file) or leads_out(path.parent / entry.file, path.parent):
            raise InputError(f"{path}: names a file outside of its folder, {entry.file!r}; run again with --fresh")
    return LedgerContent(found, entries, b"".join(whole), tuple(damaged))


def cut_shards(folder: Path) -> list[str]:
    """The shards in `folder` and below it that were computed in pieces, in other batches than planned. Raises as
    `read_ledger` does."""
    ledgers = sorted(Path(folder).rglob(LEDGER_NAME))
    return [entry.shard for path in ledgers for entry in read_ledger(path).entries.values() if entry.split]


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
            header = {"ledger": VERSION, "plan": plan.digest, "parts": dict(plan.parts)}
            content = LedgerContent(None, {}, b"") if fresh else self._read(plan, header)
            if content.header is not None and content.header["plan"] != plan.digest:
                raise UsageError(
                    f"{self.folder} holds results of another plan: {plan.first_difference(content.header['parts'])} "
                    f"differs; use --fresh to start over or another --out"
                )
            self.entries, self.damaged = content.entries, content.damaged
            self.fresh = fresh
            if content.damaged:
                publish_bytes(content.whole, self.path)
            self._file = os.fdopen(open_itself(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
            self._file.truncate(len(content.whole))
            if content.header is None:
                self._line(header)
        except BaseException:
            self._lock.release()
            raise

    def _read(self, plan: PlanDigest, header: Mapping[str, Any]) -> LedgerContent:
        try:
            return read_ledger(self.path)
        except DamagedFirstLine:
            if plans_in(self.folder) != {plan.digest}:
                raise
            return read_ledger(self.path, header=header)

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
            self._file.write(_line(value))
            self._file.flush()
            os.fsync(self._file.fileno())


def now() -> float:
    """Seconds since 1970, to the millisecond, for entries."""
    return round(time.time(), 3)


_CHECK = "check"


def _check(value: dict[str, Any]) -> str:
    return digest_of(value)[:16]


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value | {_CHECK: _check(value)}, allow_nan=False) + "\n").encode()


def _checked(line: bytes) -> dict[str, Any]:
    """The value of a line without its checksum; ValueError where it is damaged."""
    value = parse(line, "the line")
    if not isinstance(value, dict):
        raise ValueError("not an object")
    check = value.pop(_CHECK, None)
    if check is not None and check != _check(value):
        raise ValueError("its checksum is another one")
    return value


_KINDS: dict[str, type | tuple[type, ...]] = {
    "shard": str, "index": int, "file": str, "sha256": str, "rows": int, "attempts": int, "split": bool,
    "seconds": (int, float), "at": (int, float),
}  # fmt: skip


def _entry(value: dict[str, Any]) -> Entry:
    wrong = [name for name, kind in _KINDS.items() if not isinstance(value.get(name), kind)]
    if wrong or not re.fullmatch("[0-9a-f]*", value["sha256"]):
        raise ValueError(f"{', '.join(wrong) or 'sha256'} is missing or of another type")
    return Entry(**value)


def _header(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("parts"), dict) or not isinstance(value.get("plan"), str):
        raise ValueError("not a ledger header")
    if value.get("ledger") != VERSION:
        raise _OtherVersion(f"ledger version {value.get('ledger')}, this mplat reads {VERSION}")
    return value
