"""Files that a user wrote himself: which kinds there are, and their records, each with the place it was found at.

`rows` gives the records of tables (.csv, .tsv, .json, .jsonl, .ndjson, .parquet, .arrow), `whole_text` a .txt file; the
text kinds may be packed as .gz or .zst. What cannot be read is an InputError that names file and place: such a file is
mended, nothing of it is passed over. What a record must hold is for `own_prompts` and `pile` to say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import InputError
from .compressed import whole
from .files import MAX_LINE_BYTES, SUFFIXES, Value, bare_suffix, values

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXT = ".txt"
KINDS = (TEXT, *DELIMITERS, *SUFFIXES)


def kind(path: Path) -> str:
    """One of KINDS by the file's name without that of its packing; "" for another."""
    if known := bare_suffix(path):
        return known
    suffix = Path(path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix
    return suffix if suffix in KINDS else ""


def check_kind(path: Path, form: str) -> str:
    """The kind of an existing file; InputError with `form`, what it should look like, for any other path."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file: {form}")
    if not path.exists():
        raise InputError(f"{path}: there is no such file; {form}")
    if not kind(path):
        raise InputError(f"{path}: not a kind of file that can be read ({path.suffix or 'no suffix'}); {form}")
    return kind(path)


def rows(path: Path) -> Iterator[Value]:
    """The records of a table, those of delimited files as objects of texts without the empty cells."""
    delimiter = DELIMITERS.get(kind(path))
    yield from values(path) if delimiter is None else _delimited(path, delimiter)


def whole_text(path: Path) -> str:
    """The text of a file; InputError where it is not UTF-8 or too large to be held in one piece."""
    content = whole(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from error


def _delimited(path: Path, delimiter: str) -> Iterator[Value]:
    text = whole_text(path)
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names) or not all(names):
            raise InputError(f"{path}: the first line must name every column, each once; it is {','.join(names)!r}")
        for cells in reader:
            where = f"line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}, {where}: {len(cells)} cells where the first line names {len(names)} columns; "
                    "put cells that hold the delimiter, quotes or line ends in double quotes"
                )
            yield Value(where, {name: cell for name, cell in zip(names, cells, strict=True) if cell})
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not well-formed ({error})") from error
