"""The Pile's record format: documents {"text", "meta": {"pile_set_name"}}, one JSON object a line, plain or packed;
and texts of the user's own: records with `text` alone (also .csv, .tsv and tables), or a .txt file, one document.

`read(paths)` promises every document of the files in their order, each with its text unchanged, and an account of every
record that could not be used, by reason; more bad ones than the tolerance allows are an InputError that names the
first. A file that was cut off is an InputError whatever the tolerance. Lines end at \\n only: U+2028, U+0085 and the
like occur inside texts.

Without a limit all texts are held in memory; with one, no more than that number of every set, however long the files
are: those with the smallest hash of seed and id, so that a larger limit only adds.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError, UsageError
from ..data_set import BadRecord
from ..sources.files import Value
from ..sources.finding import data_files
from ..sources.own_files import TEXT, kind, rows, whole_text

FAIL_OVER = 0.01
_EXAMPLES = 5
OWN_SET = "own"  # the set of documents that name none
_EXPECTED = '{"text": ...}, or {"text": ..., "meta": {"pile_set_name": ...}} as in The Pile'
FORM = (
    "give .jsonl, .json, .csv, .tsv or .parquet with a `text` in every record, or .txt with one document; text kinds "
    "also as .zst or .gz"
)


class Document(NamedTuple):
    """One text. id: its file and its number in it; set_name: the part of The Pile that it is from; fields: what else
    its record says, but for `text` and `meta`."""

    id: str
    set_name: str
    text: str
    fields: Mapping[str, Any] | None = None

    @property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True)
class SetCount:
    """What the files hold of one set."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class PileReport:
    """What became of the records: `records` = the documents of all sets + the sum of `bad`."""

    files: tuple[Path, ...]
    records: int
    sets: Mapping[str, SetCount]
    bad: Mapping[str, int]  # by reason
    examples: tuple[str, ...]  # the first bad records: file, place, reason


@dataclass(frozen=True)
class Reading:
    """The documents, those of the limit alone where there is one, and the account of all records."""

    documents: tuple[Document, ...]
    report: PileReport


def read(
    paths: Path | str | Sequence[Path | str], *, limit: int | None = None, seed: int = 0, fail_over: float = FAIL_OVER
) -> Reading:
    """The documents of files, or of every data file below a folder; `limit`: at most so many of each set."""
    if not 0.0 <= fail_over <= 1.0:
        raise UsageError(f"the tolerated share of bad records is {fail_over}; it must be from 0 to 1")
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit} documents of each set; it must be at least 1")
    given = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    files = [file for path in given for file in _files(path)]
    if len({name for _, name in files}) < len(files):
        raise UsageError(
            f"two of the files have the same name, {_twice(files)!r}; put them into one folder and name that"
        )
    counts: dict[str, list[int]] = {}
    bad: Counter[str] = Counter()
    examples: list[str] = []
    kept: dict[str, list[tuple[int, int, Document]]] = {}  # of each set a heap, the largest hash on top
    number = 0
    for path, name in files:
        for place, found in _records(path, name):
            number += 1
            if isinstance(found, BadRecord):
                bad[found.reason] += 1
                if len(examples) < _EXAMPLES:
                    examples.append(f"{path}, {place}: {found}")
                continue
            count = counts.setdefault(found.set_name, [0, 0])
            count[0] += 1
            count[1] += found.n_bytes
            heap = kept.setdefault(found.set_name, [])
            entry = (-_position(seed, found.id), number, found)
            if limit is None or len(heap) < limit:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)
    report = PileReport(
        tuple(path for path, _ in files),
        number,
        {name: SetCount(*counts[name]) for name in sorted(counts)},
        dict(sorted(bad.items())),
        tuple(examples),
    )
    _check(report, fail_over)
    ordered = sorted((entry for heap in kept.values() for entry in heap), key=lambda entry: entry[1])
    return Reading(tuple(document for _, _, document in ordered), report)


def _files(path: Path) -> list[tuple[Path, str]]:
    """The files that `path` stands for, each with the name by which its documents are called."""
    if path.is_dir():
        found = data_files(path) or sorted(file for file in path.iterdir() if file.is_file() and kind(file))
        if not found:
            raise InputError(f"{path}: holds no data file; {FORM}")
        return [(file, file.relative_to(path).as_posix()) for file in found]
    if path.exists() and not kind(path):
        raise InputError(f"{path}: not a kind of data file that can be read; {FORM}")
    return [(path, path.name)]


def _twice(files: Sequence[tuple[Path, str]]) -> str:
    return next(name for name, count in Counter(name for _, name in files).items() if count > 1)


def _records(path: Path, name: str) -> Iterator[tuple[str, Document | BadRecord]]:
    entries = [Value("the document", {"text": whole_text(path)})] if kind(path) == TEXT else rows(path)
    for number, entry in enumerate(entries, 1):
        if entry.problem:
            yield entry.where, BadRecord(entry.problem)
            continue
        at = entry.where.rpartition(" ")[2]
        try:
            yield entry.where, _document(entry.value, f"{name}:{int(at) if at.isdecimal() else number:07d}")
        except BadRecord as unusable:
            yield entry.where, unusable


def _document(record: Any, name: str) -> Document:
    if not isinstance(record, Mapping):
        raise BadRecord("wrong_type", "a record is not an object")
    if "text" not in record:
        raise BadRecord(
            "missing_field", f"there is no 'text', only {', '.join(map(repr, list(record)[:8])) or 'nothing'}"
        )
    meta = record.get("meta")
    text, set_name = record["text"], meta.get("pile_set_name", OWN_SET) if isinstance(meta, Mapping) else OWN_SET
    for value, field in ((text, "text"), (set_name, "pile_set_name")):
        if not isinstance(value, str):
            raise BadRecord("wrong_type", f"{field!r} is not text but {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRecord("bad_unicode", f"character {error.start} of {field!r} is half a surrogate pair") from error
        if not value:
            raise BadRecord("empty_text", f"{field!r} is empty")
    return Document(name, set_name, text, {k: v for k, v in record.items() if k not in ("text", "meta")} or None)


def _position(seed: int, document_id: str) -> int:
    return int.from_bytes(
        hashlib.sha256(f"{seed}:{document_id}".encode("utf-8", "surrogateescape")).digest()[:8], "big"
    )


def _check(report: PileReport, fail_over: float) -> None:
    bad = sum(report.bad.values())
    if report.sets and bad <= fail_over * report.records:
        return
    where = ", ".join(map(str, report.files[:3])) + (" ..." if len(report.files) > 3 else "")
    if not report.records:
        raise InputError(f"{where}: holds no record; fetch it again")
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.bad.items())
    message = f"{where}: {bad} of {report.records} records are no documents {_EXPECTED} ({reasons})"
    share = math.ceil(bad / report.records * 1000) / 1000
    advice = f"; mend the file, or allow them with --fail-over {share:g}" if report.sets else ""
    raise InputError(f"{message}; the first: {report.examples[0]}{advice}")
