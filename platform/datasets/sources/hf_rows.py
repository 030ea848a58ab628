"""Converting the files of a data set to the schema that it has on the Hugging Face hub, one file for each split.

    convert("squad", "dev-v1.1.json", "out")      # out/squad-validation.jsonl

Promises that the files written are read into questions equal to those of the files given, in the same order within
each split. Bad records are left out as `reading.read` leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, suggest
from ..data_set import DataSet, get
from ..reading import FAIL_OVER, read
from ..records import Question
from .finding import find

SPLIT_NAMES = {"train": "train", "dev": "validation", "test": "test", "": "all"}  # ours -> the hub's
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def convert(
    data_set: str,
    source: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    suffix: str = ".jsonl",
    fail_over: float = FAIL_OVER,
) -> tuple[Path, ...]:
    """Write the questions of `source` (a file, several, or a folder to search) below `out`; returns the files.

    Where a data set has several schemas of rows, there is a file for each. Raises UsageError for an unknown `suffix`,
    InputError as `read` does.
    """
    if suffix not in SUFFIXES:
        raise UsageError(f"there is no kind of file {suffix!r} to convert to; {suggest(suffix, SUFFIXES)}")
    chosen = get(data_set)
    if isinstance(source, Path | str) and Path(source).is_dir():
        files: Sequence[Path | str] = find([data_set], source)[data_set].files
    else:
        files = [source] if isinstance(source, Path | str) else source
    written = []
    for name, rows in rows_by_file(chosen, read(chosen, files, fail_over=fail_over).questions).items():
        path = Path(out) / f"{name}{suffix}"
        _write(rows, path)
        written.append(path)
    return tuple(written)


def rows_by_file(data_set: DataSet, questions: Iterable[Question]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of the file that they belong in, without its suffix."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        kind = data_set.row_kind(question)
        name = "-".join(part for part in (data_set.name, kind, SPLIT_NAMES[question.split]) if part)
        rows.setdefault(name, []).append(data_set.row(question))
    return rows


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    from ...core.whole_files import publish_bytes, replace_table

    if path.suffix == ".parquet":
        import pyarrow as pa

        replace_table(pa.Table.from_pylist(rows), path)
        return
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        import gzip

        data = gzip.compress(data, mtime=0)
    elif path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    publish_bytes(data, path)
