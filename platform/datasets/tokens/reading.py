"""Documents from text files, read strictly: .jsonl and .txt, plain or packed as .gz or .zst, .csv, .tsv, .parquet.

Promises: every document that the files hold, in order, or an error that names the file and the byte or line. A packed
file that was cut off is an error even if it was cut at the end of a line. Lines end at "\\n" only: U+2028, U+0085 and
the like occur inside texts. Broken lines are counted by reason, and refused beyond a limit. Does not tokenise; holds
one line of a .jsonl file, or one whole .txt file, in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ..sources.compressed import chunks
from ..sources.json_text import Unusable, parse
from ..sources.own_files import TEXT, kind, rows, whole_text

MAX_LINE_BYTES = 256 << 20  # a longer "line" is not text with lines
_LINES = (".jsonl", ".ndjson")
_BOM = b"\xef\xbb\xbf"


class BadLines:
    """Counts broken lines by reason; raises when there are more than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: Counter[str] = Counter()

    def add(self, path: Path, line: int, fault: Unusable) -> None:
        """One more broken line."""
        self.reasons[fault.reason] += 1
        if self.reasons.total() > self.limit:
            counted = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items()))
            raise InputError(
                f"{path}: line {line} is broken: {fault} (so far {counted}; data.text.bad_line_limit is {self.limit}); "
                "repair the file, or raise the limit to skip and count such lines"
            )


def documents(path: Path, field: str, bad: BadLines) -> Iterator[str]:
    """The documents of one file. Empty ones are passed over, broken ones go to `bad`."""
    found = kind(path)
    if not found:
        raise InputError(
            f"{path}: not a kind of text file that can be read; valid: .jsonl, .csv, .tsv, .parquet with a field "
            f"{field!r} in every record, .txt with one document; text kinds also .gz or .zst"
        )
    if found == TEXT:
        text = whole_text(path)
        if text.strip():
            yield text
        return
    if found not in _LINES:
        yield from _of_rows(path, field, bad)
        return
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                document = _document(line.removeprefix(_BOM) if number == 1 else line, field)
            except Unusable as fault:
                bad.add(path, number, fault)
                continue
            if document.strip():
                yield document


def _of_rows(path: Path, field: str, bad: BadLines) -> Iterator[str]:
    """The documents of a table or of one JSON document."""
    for number, entry in enumerate(rows(path), 1):
        try:
            if entry.problem:
                raise Unusable(entry.problem, entry.where)
            document = _text(entry.value, field)
        except Unusable as fault:
            bad.add(path, number, fault)
            continue
        if document.strip():
            yield document


def _document(line: bytes, field: str) -> str:
    return _text(parse(line), field)


def _text(record: Any, field: str) -> str:
    if not isinstance(record, dict):
        raise Unusable("not_an_object", "the record is not an object")
    if field not in record:
        raise Unusable("missing_field", f"there is no field {field!r}, only {', '.join(map(repr, sorted(record)[:8]))}")
    text = record[field]
    if not isinstance(text, str):
        raise Unusable("wrong_type", f"field {field!r} is not text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("invalid_text", f"character {error.start} is half a surrogate pair") from error
    return text


def _lines(path: Path) -> Iterator[bytes]:
    pieces: list[bytes] = []  # of the line whose end is not read yet; joined once, so that a long line costs no copies
    held = 0
    for chunk in chunks(path):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*pieces, line))
            pieces, held = [], 0
        pieces.append(rest)
        held += len(rest)
        if held > MAX_LINE_BYTES:
            raise InputError(f"{path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB; is this a .jsonl file?")
    if held:
        yield b"".join(pieces)
