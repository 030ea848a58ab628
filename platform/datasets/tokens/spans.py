"""Files cut into spans that are read one by one, by several workers: together they hold every record once, in order.

    spans = survey(Path("pile.jsonl.zst"), step=16 << 20).spans
    reader = SpanReader(Fields())
    for span in spans:
        for number, found in reader.records(span): ...

- .jsonl, plain or packed: bytes of what is unpacked; a line belongs to the span in which it begins. Reading starts at
  the last gzip member or zstandard frame before the span. A file that is one frame has no such place: each reader
  unpacks it from its start, and goes on from one of its spans to the next without starting again.
- .parquet: row groups. A data set of the hub: its shards.
- anything else: one span, the whole file.

Numbers of lines and rows are those in the file. A survey reads a packed file once, whole.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ...core.errors import InputError
from ..sources.compressed import chunks, opened, whole_size
from ..sources.files import parquet_rows
from .hub_texts import HUB, hub_records, pinned
from .reading import LINES, TABLE, Fields, Numbered, check_kind, of_lines, of_rows, of_whole, split_lines

Form = Literal["lines", "groups", "whole", "hub"]


class Span(NamedTuple):
    """A stretch of a file. start, end: bytes of the unpacked file (lines), row groups (groups); of the
    hub, one shard and how many there are.

    before: line ends or rows in front of `start`. packed, unpacked: of lines, the byte of the file from which to read,
    and the byte of the unpacked file that this is; it lies in front of `start`. size: bytes of text, about.
    """

    path: str
    form: Form
    start: int = 0
    end: int = 0
    before: int = 0
    packed: int = 0
    unpacked: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """Where the numbers of its records count."""
        return f"{self.path}, shard {self.start}" if self.form == "hub" else self.path


@dataclass(frozen=True)
class Survey:
    """A file as it was found. bytes, sha256: of the file as it is, packed or not. frames: of a packed one."""

    path: str
    bytes: int
    sha256: str
    frames: int
    spans: list[Span]


def survey(path: Path | str, step: int) -> Survey:
    """Cut one file into spans of about `step` bytes.

    Raises InputError for a file that cannot be read to its end or is of an unknown kind, UsageError where a data set of
    the hub needs a library that is not installed.
    """
    if str(path).startswith(HUB):
        texts = pinned(str(path))
        spans = [Span(texts.name, "hub", shard, texts.shards) for shard in range(texts.shards)]
        return Survey(texts.name, 0, texts.digest, 1, spans)
    path, frames = Path(path), 1
    found = check_kind(path)
    if found in LINES:
        spans, frames = _survey_lines(path, step)
    elif found == TABLE:
        spans = _survey_groups(path, step)
    else:
        spans = [Span(str(path), "whole", size=whole_size(path))]
    with path.open("rb") as file:
        return Survey(str(path), path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), frames, spans)


def _survey_lines(path: Path, step: int) -> tuple[list[Span], int]:
    packed: list[int] = []  # where a frame begins: byte of the file
    unpacked: list[int] = []  # and byte of what it holds

    def begins(at: int, before: int) -> None:
        if unpacked and before == unpacked[-1]:
            packed[-1] = at  # the frame before holds nothing
        else:
            packed.append(at)
            unpacked.append(before)

    ends = [0]  # line ends in front of every multiple of `step`
    size = line_ends = 0
    for chunk in chunks(path, begins=begins):
        done = 0
        while (cut := len(ends) * step - size) <= len(chunk):
            line_ends += chunk.count(b"\n", done, cut)
            ends.append(line_ends)
            done = cut
        line_ends += chunk.count(b"\n", done)
        size += len(chunk)
    spans: list[Span] = []
    for number, start in enumerate(range(0, size, step)):
        before = max(0, start - 1)  # the byte that says whether a line begins at `start`
        place = bisect_right(unpacked, before) - 1
        from_ = (packed[place], unpacked[place]) if packed else (before, before)
        end = min(start + step, size)
        spans.append(Span(str(path), "lines", start, end, ends[number], *from_, end - start))
    return spans, max(1, bisect_left(unpacked, size))


def _survey_groups(path: Path, step: int) -> list[Span]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    spans: list[Span] = []
    with opened(path) as file:
        try:
            about = pq.ParquetFile(file).metadata
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file ({error}); fetch the file again") from error
        start = before = rows = size = 0
        for group in range(about.num_row_groups):
            size += about.row_group(group).total_byte_size
            rows += about.row_group(group).num_rows
            if size >= step or group == about.num_row_groups - 1:
                spans.append(Span(str(path), "groups", start, group + 1, before, size=size))
                start, before, size = group + 1, rows, 0
    return spans


@dataclass
class _Open:
    """A file that is being read line by line, and the first line that no span has had yet."""

    path: str
    lines: Iterator[tuple[int, bytes]]
    held: tuple[int, bytes] | None
    end: int = 0  # of the last span


class SpanReader:
    """Reads spans, in any order; those of a packed file that follow each other without unpacking anything again."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._open: _Open | None = None

    def records(self, span: Span) -> Iterator[Numbered]:
        """Every record that begins in `span`, by its number in the file. Raises InputError for a damaged file."""
        fields, path = self._fields, Path(span.path)
        if span.form == "lines":
            return of_lines(self._lines(span), fields)
        if span.form == "hub":
            return hub_records(span.path, span.start, span.end, fields)
        if span.form == "whole":
            return of_whole(path, fields)
        groups = range(span.start, span.end)
        return of_rows(enumerate(parquet_rows(path, groups, _columns(path, fields)), span.before + 1), fields)

    def _lines(self, span: Span) -> Iterator[tuple[int, bytes]]:
        open_, self._open = self._open, None  # an error on the way leaves nothing half read
        if open_ is None or not _leads_to(open_, span):
            path = Path(span.path)
            lines = split_lines(path, chunks(path, span.packed), span.unpacked)
            open_ = _Open(span.path, lines, next(lines, None))
        number: int | None = None
        while open_.held is not None and open_.held[0] < span.end:
            begin, line = open_.held
            if begin >= span.start:
                # a line under way at `start` has its end in this span, before the first line that begins here
                number = span.before + (begin != span.start) + 1 if number is None else number + 1
                yield number, line
            open_.held = next(open_.lines, None)
        open_.end = span.end
        self._open = open_


def _leads_to(open_: _Open, span: Span) -> bool:
    """Whether the way to `span` is shorter from where the open file is than from where the span says."""
    behind = open_.path == span.path and open_.end <= span.start
    return behind and (open_.held is None or open_.held[0] >= span.unpacked)


def _columns(path: Path, fields: Fields) -> list[str] | None:
    """The columns that are needed; all where there is no text, so that the error can name them."""
    import pyarrow.parquet as pq

    with opened(path) as file:
        there = pq.ParquetFile(file).schema_arrow.names
    wanted = [fields.text, fields.set_name.partition(".")[0]]
    return [name for name in dict.fromkeys(wanted) if name in there] if fields.text in there else None
