"""The values in a data file: JSON, JSON Lines, Parquet or Arrow, JSON also packed, each with the place it was found at.

Promises
- Lines are split on \n only: other Unicode line separators are part of the text.
- A value that cannot be used is yielded with its reason, never dropped: `broken_json`, `invalid_utf8`, `nul_byte`,
  `byte_order_mark` (one at the very start of a file is fine), `duplicate_key`, `line_too_long`. NaN is not JSON.
- Bytes that are not UTF-8 spoil the elements of a list that they are in; in any other document they become half
  surrogates (U+DC80 to U+DCFF), which no text may hold, so that whoever takes it apart can tell what is spoilt.
- A file that ends in the middle (of its packing, of a document or of the last line) is an InputError.

It knows nothing of any data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ...core.errors import InputError
from ...core.whole_files import MAX_TABLE_BYTES, first_line, larger_than
from .compressed import chunks, opened, whole
from .json_text import CutOff, Unusable, parse, parse_start

MAX_LINE_BYTES = 1 << 25
MAX_VALUES = 1 << 26  # of a document: each takes up to 72 bytes in memory, however short it is written
HEAD_BYTES = 1 << 18
HEAD_VALUES = 2_000
SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
_TABLES = (".parquet", ".arrow")
_BOM = b"\xef\xbb\xbf"


class Value(NamedTuple):
    """A value of a file, or why there is none: `problem` is a reason, empty where `value` is good."""

    where: str
    value: Any
    problem: str = ""


def bare_suffix(path: Path) -> str:
    """The suffix without that of the packing: `.json` of `dev.json.gz`; "" where it is no data file's."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    suffix = Path(name).suffix
    return suffix if suffix in SUFFIXES else ""


def values(path: Path) -> Iterator[Value]:
    """Every value of a file: its lines, the elements of a list, the rows of a table, or the one document."""
    if bare_suffix(path) in _TABLES:
        yield from _rows(path)
    elif bare_suffix(path) in (".jsonl", ".ndjson"):
        yield from _lines(path, chunks(path))
    else:
        content = whole(path)
        if _looks_like_lines(content):
            yield from _lines(path, [content])
        else:
            yield from _document(path, content)


def head(path: Path, limit: int = HEAD_BYTES) -> list[Any]:
    """The first values of a file, as far as they lie within its first `limit` unpacked bytes, without broken ones.

    Of a document that is larger, or cut off, the last container is cut after its last complete element.
    """
    return _head(path, limit)[0]


def long_head(path: Path) -> list[Any]:
    """What `head` gives for a file that it was too short for: one record may be as long as a line may.

    Raises InputError where there is nothing more to see: the file ends inside its first record, or is no JSON.
    """
    found, start, whole = _head(path, MAX_LINE_BYTES)
    if whole and len(found) < 2 and bare_suffix(path) not in _TABLES:
        if not _is_lines(path, start):
            next(_document(path, start), None)
        elif not found:
            list(_lines(path, [start]))
    return found


def _head(path: Path, limit: int) -> tuple[list[Any], bytes, bool]:
    """The values, the bytes that were looked at (none of a table), and whether these are the whole file."""
    if bare_suffix(path) in _TABLES:
        return [row.value for _, row in zip(range(HEAD_VALUES), _rows(path), strict=False)], b"", True
    parts: list[bytes] = []
    read = 0
    source = chunks(path)
    for chunk in source:
        parts.append(chunk)
        read += len(chunk)
        if read >= limit:
            break
    source.close()
    start, whole = b"".join(parts), read < limit
    _check_encoding(path, start)
    if _is_lines(path, start) and (b"\n" in start or whole):
        lines = start.removeprefix(_BOM).split(b"\n")
        lines = lines if whole else lines[:-1]
        found = (_line(line.strip(), f"line {n}") for n, line in enumerate(lines[:HEAD_VALUES], 1) if line.strip())
        return [entry.value for entry in found if not entry.problem], start, whole
    document = parse_start(start.removeprefix(_BOM))
    if isinstance(document, list):
        first = document[:HEAD_VALUES] if whole else (document[: HEAD_VALUES + 1][:-1] or document)
        return first, start, whole
    return ([] if document is None else [document]), start, whole


def _is_lines(path: Path, start: bytes) -> bool:
    return bare_suffix(path) in (".jsonl", ".ndjson") or _looks_like_lines(start)


def _looks_like_lines(content: bytes) -> bool:
    """Whether a complete object on the first line is followed by a second one: then it is one value a line."""
    first, newline, rest = content.partition(b"\n")
    return bool(newline) and first.rstrip().endswith(b"}") and rest[:4096].lstrip().startswith(b"{")


def _check_encoding(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: byte 0: the text is UTF-16, not UTF-8; convert it")


def _document(path: Path, content: bytes) -> Iterator[Value]:
    _check_encoding(path, content)
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise InputError(f"{path}: one document of more than {MAX_VALUES} values; make it a .jsonl file, or several")
    spoilt = False
    try:
        try:
            document = parse(content.removeprefix(_BOM))
        except Unusable as error:
            if error.reason != "invalid_utf8" or isinstance(error, CutOff):
                raise
            document, spoilt = parse(content.removeprefix(_BOM), spoilt=True), True
    except CutOff as error:
        raise InputError(
            f"{path}: cut off at byte {len(content)} in the middle of the JSON document ({error})"
        ) from error
    except Unusable as error:
        raise InputError(f"{path}: not a usable JSON document: {error}") from error
    if isinstance(document, list):
        for number, element in enumerate(document, 1):
            broken = spoilt and _is_spoilt(element)
            yield Value(f"record {number}", None if broken else element, "invalid_utf8" if broken else "")
    else:
        yield Value("the document", document)


def _is_spoilt(element: Any) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in json.dumps(element, ensure_ascii=False))


def _lines(path: Path, source: Iterable[bytes]) -> Iterator[Value]:
    number, total, pending, skipping = 0, 0, b"", False
    for chunk in source:
        total += len(chunk)
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            number += 1
            line, pending = pending + line, b""
            if number == 1:
                _check_encoding(path, line)
                line = line.removeprefix(_BOM)
            if skipping or len(line) > MAX_LINE_BYTES:
                skipping = False
                yield Value(f"line {number}", None, "line_too_long")
            elif line := line.strip():
                yield _line(line, f"line {number}")
        pending += rest
        if len(pending) > MAX_LINE_BYTES:
            pending, skipping = b"", True
    if skipping:
        yield Value(f"line {number + 1}", None, "line_too_long")
        return
    if number == 0:
        _check_encoding(path, pending)
        pending = pending.removeprefix(_BOM)
    if pending := pending.strip():
        last = _line(pending, f"line {number + 1}", last=True)
        if last.problem == "cut_off":
            raise InputError(
                f"{path}: cut off at byte {total} in the middle of line {number + 1}; fetch the file again"
            )
        yield last


def _line(line: bytes, where: str, *, last: bool = False) -> Value:
    try:
        return Value(where, parse(line))
    except CutOff:
        return Value(where, None, "cut_off" if last else "broken_json")
    except Unusable as error:
        return Value(where, None, error.reason)


def parquet_rows(
    path: Path, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Iterator[Value]:
    """Every row of a Parquet file, or of some of its row groups (counted within these), with some columns or all.

    Raises InputError where it cannot be read.
    """
    return _table_rows(path, "Parquet", partial(_parquet_batches, groups=groups, columns=columns))


def _rows(path: Path) -> Iterator[Value]:
    return parquet_rows(path) if bare_suffix(path) == ".parquet" else _table_rows(path, "Arrow", _arrow_batches)


def _table_rows(path: Path, kind: str, batches: Callable[[BinaryIO], Iterator[Any]]) -> Iterator[Value]:
    import pyarrow as pa

    with opened(path) as file:
        try:
            number = 0
            for batch in batches(file):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield Value(f"row {number}", row)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path}: not a readable {kind} file ({first_line(error)}); fetch the file again"
            ) from error


def _parquet_batches(file: BinaryIO, groups: Sequence[int] | None, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file, page_checksum_verification=True)
    for group in range(table.num_row_groups) if groups is None else groups:
        if size := larger_than(table.metadata, MAX_TABLE_BYTES, [group]):
            raise pa.ArrowInvalid(f"row group {group} unpacks to {size} bytes, more than {MAX_TABLE_BYTES}")
    return table.iter_batches(batch_size=512, row_groups=groups, columns=columns, use_threads=False)


def _arrow_batches(file: BinaryIO) -> Iterator[Any]:
    """Record batches of the stream format, in which `datasets` keeps its cache, or of the file format."""
    import pyarrow as pa

    start = file.read(8)
    file.seek(0)
    if start.startswith(b"ARROW1"):
        table = pa.ipc.open_file(file)
        source = (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        source = iter(_to_the_end(file))
    for batch in source:
        yield from (batch.slice(start, 512) for start in range(0, batch.num_rows, 512))


def _to_the_end(file: BinaryIO) -> Iterator[Any]:
    """The batches of a stream, which must have its end mark: a stream that stops between two batches looks whole."""
    import pyarrow as pa

    yield from pa.ipc.open_stream(file)
    end = file.seek(0, 2)
    file.seek(max(end - 8, 0))
    if file.read(8) != b"\xff\xff\xff\xff\0\0\0\0":
        raise pa.ArrowInvalid(f"cut off at byte {end}: the stream has no end mark")
