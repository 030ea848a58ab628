"""Files that are either whole or not there: the commit protocol every stage writes its results with.

A file is written to `.<name>.<uuid>.part` in its own folder, closed, fsynced, reopened and verified, and only then
given its name; the folder is fsynced last. `publish_*` never replaces: the first writer wins, a second one with the
same bytes is a no-op, and other bytes are an error that names both digests, because a step that gives two answers
cannot be cached. `replace_*` swaps a single file atomically, for reports and other things that are meant to change.

Parquet files are byte-stable: fixed writer options, one chunk per column, no time stamps; every page has a checksum,
and `read_table` checks it, so a flipped bit in the data is an error that names the file and not a wrong number. The
Parquet footer has no checksum of its own: pass `sha256` to `read_table` where the digest is known.

It does not lock, retry or clean up after dead writers; the ledger's owner does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ClusterError, InputError, ToleranceError, UsageError

ROWS_PER_GROUP = 65_536
PARQUET: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "write_page_checksum": True,
}
MAX_TABLE_BYTES = 1 << 32  # of a table that nobody vouches for with a digest
_COPIED_AT_ONCE = 1 << 20  # bytes
# What to do about a damaged file, by who made it.
OWN_FILE = "delete it and run the step that makes it again"
# What os.link answers on file systems without hard links (FAT, some network and FUSE mounts).
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class NonDeterministicError(ToleranceError):
    """The same step gave two different results for the same inputs."""


@dataclass(frozen=True)
class Published:
    """A file that is whole and has its name."""

    path: Path
    sha256: str
    rows: int  # 0 for files that are not tables
    bytes: int


def sha256_of(data: bytes) -> str:
    """Hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def table_bytes(table: pa.Table, *, rows_per_group: int = ROWS_PER_GROUP, compressed: bool = True) -> bytes:
    """The table as a Parquet file; equal tables give equal bytes whatever their chunks were."""
    sink = pa.BufferOutputStream()
    options = PARQUET if compressed else {**PARQUET, "compression": "none", "compression_level": None}
    pq.write_table(table.combine_chunks(), sink, row_group_size=rows_per_group, **options)
    return sink.getvalue().to_pybytes()


def as_read(table: pa.Table) -> pa.Table:
    """The table as it will be read, whose file has the same bytes when it is written again: Parquet has its own names
    for what lists hold."""
    nested = any(pa.types.is_nested(column) for column in table.schema.types)
    return _parquet(table_bytes(table)).read(use_threads=False) if nested else table


def publish_table(
    table: pa.Table, path: Path, *, rows_per_group: int = ROWS_PER_GROUP, data: bytes | None = None
) -> Published:
    """Write `table` as Parquet under a name that does not exist yet; the first writer wins. data: its `table_bytes`,
    where they are there already; what is on the disk is then compared with them, and not read as a table."""
    verify = _table_check(table) if data is None else None
    data = table_bytes(table, rows_per_group=rows_per_group) if data is None else data
    return _publish(data, Path(path), rows=table.num_rows, verify=verify, replace=False)


def replace_table(table: pa.Table, path: Path, *, rows_per_group: int = ROWS_PER_GROUP) -> Published:
    """Write `table` as Parquet in place of what may be there."""
    data = table_bytes(table, rows_per_group=rows_per_group)
    return _publish(data, Path(path), rows=table.num_rows, verify=_table_check(table), replace=True)


def publish_bytes(
    data: bytes, path: Path, *, replace: bool = True, verify: Callable[[Path], object] | None = None
) -> Published:
    """Write `data` in place of what may be there, or (replace=False) under a name that does not exist yet.

    verify: raises InputError for a file that is not whole, so that half of one is no second opinion.
    """
    return _publish(data, Path(path), rows=0, verify=verify, replace=replace)


def copy_files(copies: Mapping[Path, Published]) -> None:
    """Copies of whole files, each in place of what may be at its new path; none gets its name before all are whole.

    Raises InputError where a file cannot be read or its copy has another digest, ClusterError and UsageError as
    `write_errors` does.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, whole in copies.items():
            try:
                source = open(whole.path, "rb")
            except OSError as error:
                raise InputError(
                    f"{whole.path}: cannot be read ({error.strerror}); run the same command again"
                ) from error
            with source, write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                part = parts[path] = part_of(path)
                with open(part, "xb") as file:
                    shutil.copyfileobj(source, file, _COPIED_AT_ONCE)
                    file.flush()
                    os.fsync(file.fileno())
                with open(part, "rb") as file:
                    stored = hashlib.file_digest(file, "sha256").hexdigest()
            if stored != whole.sha256:
                raise InputError(
                    f"{whole.path}: its copy has sha256 {stored[:16]} in place of {whole.sha256[:16]}; run the same "
                    "command again"
                )
        for path, part in parts.items():
            with write_errors(path):
                os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    for folder in {path.parent for path in copies}:
        _fsync_folder(folder)


def publish_json(value: Any, path: Path) -> Published:
    """Write `value` as indented JSON in place of what may be there; NaN and infinity are errors."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return publish_bytes((text + "\n").encode(), Path(path))


class Stream:
    """A file that is being written piece by piece; `sha256` and `bytes` are those of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self.bytes, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        """Append `data`, bytes or an array of them."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self.bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """What was written is on its way to the disk; for writers that ask."""

    @property
    def sha256(self) -> str:
        """Of all that was written, hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def streamed(path: Path) -> Generator[Stream]:
    """A file too large to be held in memory: written piece by piece, and in its place, whole, when the block has ended
    without an error; what was there before is then replaced. It is not read back.

    Raises ClusterError where the disk is full or broken, UsageError where `path` cannot be written to.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        try:
            with open(part, "xb") as file:
                yield Stream(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _fsync_folder(path.parent)


def read_table(path: Path, sha256: str | None = None, *, advice: str = OWN_FILE) -> pa.Table:
    """The table in a Parquet file, with every page checksum verified.

    Raises InputError naming the file when it is missing, truncated, damaged, or does not have digest `sha256`.
    advice: what the user can do about it, the end of that sentence; empty where the caller does it himself.
    """
    path = Path(path)
    advice = f"; {advice}" if advice else ""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}){advice}") from error
    if sha256 is not None and (digest := sha256_of(data)) != sha256:
        raise InputError(
            f"{path}: damaged, its sha256 is {digest[:16]} and was {sha256[:16]} when it was written{advice}"
        )
    try:
        file = _parquet(data)
        large = None if sha256 is not None else larger_than(file.metadata, MAX_TABLE_BYTES)
        table = file.read(use_threads=False) if large is None else None
        if table is not None and sha256 is None:
            table.validate(full=True)  # texts are UTF-8, and no value lies outside of the file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({first_line(error)}){advice}") from error
    if table is None:
        raise InputError(f"{path}: unpacks to {large} bytes, more than the {MAX_TABLE_BYTES} that are read{advice}")
    return table


def larger_than(about: pq.FileMetaData, limit: int, groups: Sequence[int] | None = None) -> int | None:
    """How many bytes a Parquet file, or some of its row groups, takes in memory by its footer, where that is more than
    `limit`; a cell takes one at least, however well a million equal ones are packed."""
    chosen = [about.row_group(n) for n in (range(about.num_row_groups) if groups is None else groups)]
    size = sum(max(group.total_byte_size, group.num_rows * group.num_columns) for group in chosen)
    return size if size > limit else None


def first_line(error: Exception) -> str:
    """What a library says of a file, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _parquet(data: bytes) -> pq.ParquetFile:
    # not `pq.read_table`, which imports Arrow's data sets and with them pandas. It is to be read in one thread: Arrow's
    # own may outlive the interpreter, which then aborts once torch is loaded too
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def is_unfinished(path: Path) -> bool:
    """Whether `path` has the name of a file whose writer may have died before publishing it."""
    return path.name.startswith(".") and path.name.endswith(".part")


def remove_unfinished(folder: Path, names: str = ".+") -> None:
    """Delete what dead writers left in `folder` of files whose names match `names`; nobody may be writing them now."""
    part = re.compile(rf"\.(?:{names})\.[0-9a-f]{{32}}\.part")
    for path in folder.glob(".*.part") if folder.is_dir() else ():
        if part.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _table_check(table: pa.Table) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        written = read_table(path)
        if written.num_rows != table.num_rows or written.schema.names != table.schema.names:
            raise InputError(f"{path}: {written.num_rows} rows read back of {table.num_rows} written; check the disk")

    return check


def _publish(
    data: bytes, path: Path, *, rows: int, verify: Callable[[Path], object] | None, replace: bool
) -> Published:
    digest = sha256_of(data)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        try:
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if (stored := sha256_of(part.read_bytes())) != digest:
                raise InputError(
                    f"{part}: sha256 {digest[:16]} was written and {stored[:16]} read back; check the disk"
                )
            if verify is not None:
                verify(part)
            if replace:
                os.replace(part, path)
            elif not _take_name(part, path):
                _compare(path, digest, verify)
        finally:
            part.unlink(missing_ok=True)
        _fsync_folder(path.parent)
    return Published(path=path, sha256=digest, rows=rows, bytes=len(data))


def part_of(path: Path) -> Path:
    """A new hidden name beside `path` for what is not to stay, or not yet whole; see `remove_unfinished`."""
    return path.parent / f".{path.name[:100]}.{uuid.uuid4().hex}.part"


def _take_name(part: Path, path: Path) -> bool:
    """Give `part` its name unless the name is taken; True where this call took it."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Not atomic against a second writer in the same instant; that one is caught by the ledger's lock.
        if path.exists():
            return False
        os.rename(part, path)
    return True


def _compare(path: Path, digest: str, verify: Callable[[Path], object] | None) -> None:
    there = sha256_of(path.read_bytes())
    if there == digest:
        return
    if path.suffix == ".parquet":
        read_table(path)  # a damaged file is no second opinion: this raises the error that says so
    elif verify is not None:
        verify(path)
    raise NonDeterministicError(
        f"non-deterministic step: {path} is there with sha256 {there}, and the same step now gives {digest}; "
        "look for an unseeded generator or an unordered set, then run it again with --fresh"
    )


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts cannot sync a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def write_errors(path: Path) -> Generator[None]:
    """Turn what the file system refuses into one sentence and the right exit code.

    Raises ClusterError where the disk is full or broken, UsageError where `path` cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise ClusterError(
                f"{path}: cannot be written ({error.strerror}); what was finished before is safe, "
                "free some space and run the same command again"
            ) from error
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another folder with --out") from error
