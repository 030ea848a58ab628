"""Documents from text files, read strictly: .jsonl and .txt, plain or packed as .gz or .zst, .csv, .tsv, .parquet.

Promises: every document that the files hold, in order, or an error that names the file and the byte or line. A packed
file that was cut off is an error even if it was cut at the end of a line. Lines end at "\\n" only: U+2028, U+0085 and
the like occur inside texts. Broken lines are counted by reason, and refused beyond a limit. Does not tokenise; holds
one line of a .jsonl file, some rows of a .parquet file, or a whole file of another kind in memory, each up to a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError
from ..sources.compressed import chunks
from ..sources.files import Value, parquet_rows
from ..sources.json_text import Unusable, parse
from ..sources.own_files import TEXT, kind, rows, whole_text

MAX_LINE_BYTES = 256 << 20  # a longer "line" is not text with lines
LINES = (".jsonl", ".ndjson")
TABLE = ".parquet"
_BOM = b"\xef\xbb\xbf"


class BadLines:
    """Counts broken lines by reason; raises InputError when there are more than `limit`, which `setting` sets."""

    def __init__(self, limit: int, setting: str = "data.text.bad_line_limit") -> None:
        self.limit, self.setting = limit, setting
        self.reasons: Counter[str] = Counter()

    def add(self, path: Path | str, line: int, fault: Unusable) -> None:
        """One more broken line."""
        self.reasons[fault.reason] += 1
        if self.reasons.total() > self.limit:
            counted = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items()))
            raise InputError(
                f"{path}: line {line} is broken: {fault} (so far {counted}; {self.setting} is {self.limit}); "
                "repair the file, or raise the limit to skip and count such lines"
            )


class Document(NamedTuple):
    """A text and the set that it is from, "" where its record names none."""

    text: str
    set_name: str


class Fields(NamedTuple):
    """Where a record has its text, and the name of its set (dots lead into objects)."""

    text: str = "text"
    set_name: str = "meta.pile_set_name"

    def document(self, record: Any) -> Document:
        """The document of a record; Unusable where it has none."""
        if not isinstance(record, dict):
            raise Unusable("not_an_object", "the record is not an object")
        if self.text not in record:
            there = ", ".join(map(repr, sorted(record)[:8]))
            raise Unusable("missing_field", f"there is no field {self.text!r}, only {there}")
        found: Any = record
        for name in self.set_name.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        document = Document(record[self.text], "" if found is None else found)
        for value, field in zip(document, self, strict=True):
            if not isinstance(value, str):
                raise Unusable("wrong_type", f"field {field!r} is not text but {type(value).__name__}")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise Unusable("invalid_text", f"character {error.start} is half a surrogate pair") from error
        return document


Numbered = tuple[int, "Document | Unusable"]  # a record by its line or row, counted from 1, or what is wrong with it


def documents(path: Path, field: str, bad: BadLines) -> Iterator[str]:
    """The documents of one file. Empty ones are passed over, broken ones go to `bad`."""
    for number, found in records(path, Fields(field, "")):
        if isinstance(found, Unusable):
            bad.add(path, number, found)
        elif found.text.strip():
            yield found.text


def records(path: Path, fields: Fields) -> Iterator[Numbered]:
    """Every record of one file. Raises InputError for a file that is none of texts, or damaged."""
    found = check_kind(path, fields.text)
    if found in LINES:
        lines = ((number, line) for number, (_, line) in enumerate(split_lines(path, chunks(path)), 1))
        yield from of_lines(lines, fields)
    elif found == TABLE:
        yield from of_rows(enumerate(parquet_rows(path), 1), fields)
    else:
        yield from of_whole(path, fields)


def check_kind(path: Path, field: str = "text") -> str:
    """The kind of a file by its name. Raises InputError for one that holds no texts."""
    found = kind(path)
    if not found:
        raise InputError(
            f"{path}: not a kind of text file that can be read; valid: .jsonl, .csv, .tsv, .parquet with a field "
            f"{field!r} in every record, .txt with one document; text kinds also .gz or .zst"
        )
    return found


def of_lines(lines: Iterable[tuple[int, bytes]], fields: Fields) -> Iterator[Numbered]:
    """The records of numbered lines; blank lines are none."""
    for number, line in lines:
        if line.strip():
            try:
                yield number, fields.document(parse(line))
            except Unusable as fault:
                yield number, fault


def of_rows(rows: Iterable[tuple[int, Value]], fields: Fields) -> Iterator[Numbered]:
    """The records of numbered rows of a table."""
    for number, entry in rows:
        try:
            if entry.problem:
                raise Unusable(entry.problem, entry.where)
            yield number, fields.document(entry.value)
        except Unusable as fault:
            yield number, fault


def of_whole(path: Path, fields: Fields) -> Iterator[Numbered]:
    """The records of a file that is held in memory: one document, or a table."""
    if kind(path) == TEXT:
        yield 1, Document(whole_text(path), "")
    else:
        yield from of_rows(enumerate(rows(path), 1), fields)


def split_lines(path: Path, content: Iterable[bytes], origin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each line of `content` without its end, with the byte at which it begins; the first byte of all is `origin`.

    Raises InputError for a line that is longer than any text.
    """
    pieces: list[bytes] = []  # of the line whose end is not read yet; joined once, so that a long line costs no copies
    held, at = 0, origin
    for chunk in content:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            line, begin = b"".join((*pieces, line)) if pieces else line, at
            at += len(line) + 1
            pieces, held = [], 0
            yield begin, line.removeprefix(_BOM) if begin == 0 else line
        if rest:
            pieces.append(rest)
        held += len(rest)
        if held > MAX_LINE_BYTES:
            raise InputError(f"{path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB; is this a .jsonl file?")
    if held:
        line = b"".join(pieces)
        yield at, line.removeprefix(_BOM) if at == 0 else line
