"""Reading a data set's files into questions, with an account of every record that could not be used.

`read` promises that no record disappears: each is a question or is counted under a reason, and more bad ones than the
tolerance allows are an InputError that names the first. Of records with one id the first is the question and the rest
are bad. Damaged files and files without a single usable question are InputErrors whatever the tolerance. The order of
questions is that of the files. `read_rows` does the same with rows that come from elsewhere, such as the hub.

A question whose record has no id gets one from what it asks and of which text; equal ones in a file are numbered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, UsageError
from .data_set import BadRecord, DataSet, LookAlike, get
from .records import Question
from .sources.files import Value, bare_suffix, head, long_head, values

FAIL_OVER = 0.01
MAX_TOKENS = 100_000  # words and single marks, of question and context together
MAX_CHARACTERS = 2_000_000  # whatever they are
_TOKEN = re.compile(r"\w+|[^\w\s]")
_EXAMPLES = 5
_SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
}


@dataclass(frozen=True)
class FileReport:
    """What became of the records of one file, or of the rows of one `place` that is no file."""

    path: Path | str
    schema: str
    records: int
    questions: int


@dataclass(frozen=True)
class ReadReport:
    """What became of the records of a data set: `records` = `questions` + the sum of `bad`."""

    dataset: str
    files: tuple[FileReport, ...]
    bad: Mapping[str, int]  # by reason
    examples: tuple[str, ...]  # the first bad records: file, place, reason
    notes: Mapping[str, int]  # what was left out of good records

    @property
    def records(self) -> int:
        return sum(file.records for file in self.files)

    @property
    def questions(self) -> int:
        return sum(file.questions for file in self.files)

    @property
    def bad_share(self) -> float:
        """Bad records as a share of all; 0 where there are none at all."""
        return sum(self.bad.values()) / self.records if self.records else 0.0


@dataclass(frozen=True)
class Reading:
    """The usable questions and the account of the rest."""

    questions: tuple[Question, ...]
    report: ReadReport


def read(
    data_set: str | DataSet, paths: Path | str | Sequence[Path | str], *, split: str = "", fail_over: float = FAIL_OVER
) -> Reading:
    """Every question of one or several files of a data set.

    `split` overrides what the records and file names say; `fail_over` is the share of bad records that is tolerated.
    """
    files = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    reader = _Reader(get(data_set) if isinstance(data_set, str) else data_set, split, fail_over)
    if not files:
        raise UsageError(f"no file to read {reader.data_set.title} from")
    return reader.reading([reader.read_file(path) for path in files])


def read_rows(
    data_set: str | DataSet, places: Mapping[str, tuple[str, Iterable[Any]]], *, fail_over: float = FAIL_OVER
) -> Reading:
    """Every question of the rows of each place (name -> split and rows), in the Hugging Face schema of the data set.

    A row may be a `Value` of `files`, which says where it was and what is wrong with it.
    """
    reader = _Reader(get(data_set) if isinstance(data_set, str) else data_set, "", fail_over)
    reports = []
    for place, (split, rows) in places.items():
        entries = (row if isinstance(row, Value) else Value(f"row {n}", row) for n, row in enumerate(rows, 1))
        reports.append(reader.read_values(entries, place, "Hugging Face", split))
    return reader.reading(reports)


def split_of(path: Path) -> str:
    """The split that a file name tells: `train_part.json.gz` -> train, `validation.parquet` -> dev, else ""."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


class _Reader:
    """The state of one `read`."""

    def __init__(self, data_set: DataSet, split: str, fail_over: float) -> None:
        if not 0.0 <= fail_over <= 1.0:
            raise UsageError(f"the tolerated share of bad records is {fail_over}; it must be from 0 to 1")
        self.data_set, self.split, self.fail_over = data_set, split, fail_over
        self.questions: list[Question] = []
        self.bad: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.examples: list[str] = []
        self._places: dict[str, str] = {}

    def read_file(self, path: Path) -> FileReport:
        return self.read_values(values(path), path, recognised(self.data_set, path), split_of(path))

    def read_values(self, entries: Iterable[Value], place: Path | str, schema: str, split: str) -> FileReport:
        records, before = 0, len(self.questions)
        without_id: Counter[str] = Counter()
        for entry in entries:
            if entry.problem:
                records += 1
                self._count(BadRecord(entry.problem), place, entry.where)
                continue
            for number, item in enumerate(self.data_set.items(entry.value), 1):
                records += 1
                where = entry.where if entry.where != "the document" else f"question {number}"
                try:
                    if isinstance(item, BadRecord):
                        raise item
                    question = self.data_set.question(item, split, self.notes)
                    _check_text(question)
                    if not question.id:
                        made = content_id(question.dataset, question.question, question.source_text())
                        question = dataclasses.replace(question, id=numbered(made, without_id))
                    self._add(question, f"{place}, {where}")
                except BadRecord as bad:
                    self._count(bad, place, where)
        return FileReport(place, schema, records, len(self.questions) - before)

    def reading(self, reports: Sequence[FileReport]) -> Reading:
        bad, notes = dict(sorted(self.bad.items())), dict(sorted(self.notes.items()))
        report = ReadReport(self.data_set.name, tuple(reports), bad, tuple(self.examples), notes)
        _check(self.data_set, report, self.fail_over)
        return Reading(tuple(self.questions), report)

    def _add(self, question: Question, place: str) -> None:
        if question.id in self._places:
            raise BadRecord("duplicate_id", f"{question.id!r} is there already, first in {self._places[question.id]}")
        self._places[question.id] = place
        self.questions.append(dataclasses.replace(question, split=self.split) if self.split else question)

    def _count(self, bad: BadRecord, place: Path | str, where: str) -> None:
        self.bad[bad.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{place}, {where}: {bad}")


def content_id(data_set: str, *texts: str) -> str:
    """An id for a record that has none, from the texts that make it what it is."""
    return f"{data_set}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"


def numbered(made: str, seen: Counter[str]) -> str:
    """`made`, with a number behind it where it was `seen` before."""
    seen[made] += 1
    return made if seen[made] == 1 else f"{made}-{seen[made]}"


def recognised(data_set: DataSet, path: Path) -> str:
    """The schema in which `path` holds `data_set`; InputError saying what it holds instead."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file of {data_set.title}, or search the folder with --data-dir")
    sample = head(path)
    try:
        schema = data_set.recognise(sample, Path(path.name))
        if schema is None:  # the first record may be longer than what is looked at to find files
            sample = long_head(path)
            schema = data_set.recognise(sample, Path(path.name))
    except LookAlike as look_alike:
        raise InputError(f"{path}: {look_alike}") from look_alike
    if schema is None:
        first = sample[0] if sample else None
        seen = f"its first value has {', '.join(map(str, first)) or 'no fields'}" if isinstance(first, dict) else (
            "no whole value was found" if first is None else f"its first value is a {type(first).__name__}"
        )  # fmt: skip
        kind = bare_suffix(path) or path.suffix or "no suffix"
        raise InputError(f"{path}: not a {data_set.title} file ({kind}); {seen[:200]}; expected {data_set.expects}")
    return schema


def _check_text(question: Question) -> None:
    """Refuse what no file could store again, and what is too long to be a question."""
    asked = [question.question]
    for paragraph in question.context:
        asked += [paragraph.title, *paragraph.sentences]
    more = [question.id, question.split, question.source_fields, *question.answers]
    for answer in question.typed_answers:
        more += [answer.number, answer.date.day, answer.date.month, answer.date.year, *answer.spans]
    for step in question.decomposition:
        more += [step.question, step.answer]
    whole = "\n".join(asked)
    try:
        whole.encode("utf-8")
        "\n".join(more).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord("bad_unicode", f"a character that is none in {question.id!a}") from error
    if len(whole) > MAX_CHARACTERS:
        raise BadRecord("too_long", f"more than {MAX_CHARACTERS:,} characters in {question.id!r}")
    if len(whole) > MAX_TOKENS and sum(1 for _ in _TOKEN.finditer(whole)) > MAX_TOKENS:
        raise BadRecord("too_long", f"more than {MAX_TOKENS:,} words and marks in {question.id!r}")


def _check(data_set: DataSet, report: ReadReport, fail_over: float) -> None:
    bad = sum(report.bad.values())
    if report.questions and report.bad_share <= fail_over:
        return
    where = ", ".join(str(file.path) for file in report.files[:3]) + (" ..." if len(report.files) > 3 else "")
    if not report.records:
        raise InputError(f"{where}: holds no question, although it has the form of {data_set.title}; fetch it again")
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.bad.items())
    remarks = "".join(f"; {data_set.remarks[reason]}" for reason in report.bad if reason in data_set.remarks)
    message = f"{where}: {bad} of {report.records} {data_set.title} records cannot be used ({reasons}{remarks})"
    first = f"; the first: {report.examples[0]}"
    advice = f"; mend the file, or allow them with --fail-over {math.ceil(report.bad_share * 1000) / 1000:g}"
    raise InputError(message + first + (advice if report.questions else "; no question is left"))
