"""Reading a data set's files into questions, with an account of every record that could not be used.

`read` promises that no record disappears: each is a question or is counted under a reason, and more bad ones than the
tolerance allows are an InputError that names the first. Damaged files, ids that occur twice and files without a single
usable question are InputErrors whatever the tolerance. The order of questions is that of the files.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, UsageError
from .files import bare_suffix, head, long_head, values
from .records import Question
from .registry import BadRecord, DataSet, LookAlike, get

FAIL_OVER = 0.01
MAX_WORDS = 100_000  # of question and context together
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
    """What became of the records of one file."""

    path: Path
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
    chosen = get(data_set) if isinstance(data_set, str) else data_set
    if not 0.0 <= fail_over <= 1.0:
        raise UsageError(f"the tolerated share of bad records is {fail_over}; it must be from 0 to 1")
    files = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    if not files:
        raise UsageError(f"no file to read {chosen.title} from")
    reader = _Reader(chosen, split)
    reports = tuple(reader.read_file(path) for path in files)
    report = ReadReport(
        chosen.name,
        reports,
        dict(sorted(reader.bad.items())),
        tuple(reader.examples),
        dict(sorted(reader.notes.items())),
    )
    _check(chosen, report, fail_over)
    return Reading(tuple(reader.questions), report)


def split_of(path: Path) -> str:
    """The split that a file name tells: `train_part.json.gz` -> train, `validation.parquet` -> dev, else ""."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


class _Reader:
    """The state of one `read`."""

    def __init__(self, data_set: DataSet, split: str) -> None:
        self.data_set, self.split = data_set, split
        self.questions: list[Question] = []
        self.bad: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.examples: list[str] = []
        self._places: dict[str, str] = {}

    def read_file(self, path: Path) -> FileReport:
        schema = recognised(self.data_set, path)
        split = split_of(path)
        records, before = 0, len(self.questions)
        for entry in values(path):
            if entry.problem:
                records += 1
                self._count(BadRecord(entry.problem), path, entry.where)
                continue
            for number, item in enumerate(self.data_set.items(entry.value), 1):
                records += 1
                where = entry.where if entry.where != "the document" else f"question {number}"
                try:
                    if isinstance(item, BadRecord):
                        raise item
                    question = self.data_set.question(item, split, self.notes)
                    _check_text(question)
                except BadRecord as bad:
                    self._count(bad, path, where)
                else:
                    self._add(question, f"{path}, {where}")
        return FileReport(path, schema, records, len(self.questions) - before)

    def _add(self, question: Question, place: str) -> None:
        if question.id in self._places:
            raise InputError(
                f"{place}: the id {question.id!r} is there twice, first in {self._places[question.id]}; "
                "remove one of the two, or read one of the files only"
            )
        self._places[question.id] = place
        self.questions.append(dataclasses.replace(question, split=self.split) if self.split else question)

    def _count(self, bad: BadRecord, path: Path, where: str) -> None:
        self.bad[bad.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{path}, {where}: {bad}")


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
    pieces = [question.id, question.question, *question.answers]
    for paragraph in question.context:
        pieces += [paragraph.title, *paragraph.sentences]
    whole = "\n".join(pieces)
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord("bad_unicode", f"half of a surrogate pair in {question.id!r}") from error
    if len(whole) > MAX_WORDS and len(whole.split()) > MAX_WORDS:
        raise BadRecord("too_long", f"more than {MAX_WORDS} words in {question.id!r}")


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
