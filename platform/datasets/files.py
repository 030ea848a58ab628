"""The values in a data file: JSON, JSON Lines or Parquet, plain or packed, each with the place it was found at.

Promises
- Lines are split on \n only: other Unicode line separators are part of the text.
- A value that cannot be used is yielded with its reason, never dropped: `broken_json`, `invalid_utf8`, `nul_byte`,
  `byte_order_mark` (one at the very start of a file is fine), `duplicate_key`, `line_too_long`. NaN is not JSON.
- A file that ends in the middle (of its packing, of a document or of the last line) is an InputError.

It knows nothing of any data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from .compressed import chunks, opened
from .json_text import CutOff, Unusable, parse, parse_start

MAX_LINE_BYTES = 1 << 25
HEAD_BYTES = 1 << 18
HEAD_VALUES = 2_000
SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
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
    if bare_suffix(path) == ".parquet":
        yield from _rows(path)
    elif bare_suffix(path) in (".jsonl", ".ndjson"):
        yield from _lines(path, chunks(path))
    else:
        content = b"".join(chunks(path))
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
    if whole and len(found) < 2 and bare_suffix(path) != ".parquet":
        if not _is_lines(path, start):
            next(_document(path, start), None)
        elif not found:
            list(_lines(path, [start]))
    return found


def _head(path: Path, limit: int) -> tuple[list[Any], bytes, bool]:
    """The values, the bytes that were looked at (none of a table), and whether these are the whole file."""
    if bare_suffix(path) == ".parquet":
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
    try:
        document = parse(content.removeprefix(_BOM))
    except CutOff as error:
        raise InputError(
            f"{path}: cut off at byte {len(content)} in the middle of the JSON document ({error})"
        ) from error
    except Unusable as error:
        raise InputError(f"{path}: not a usable JSON document: {error}") from error
    if isinstance(document, list):
        yield from (Value(f"record {number}", element) for number, element in enumerate(document, 1))
    else:
        yield Value("the document", document)


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


def _rows(path: Path) -> Iterator[Value]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(path) as file:
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True)
            number = 0
            for batch in table.iter_batches(batch_size=512):
                for row in batch.to_pylist():
                    number += 1
                    yield Value(f"row {number}", row)
        except (pa.ArrowException, OSError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: not a readable Parquet file ({first_line}); fetch the file again") from error
