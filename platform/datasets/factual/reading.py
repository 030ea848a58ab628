"""Reading the files of a set of factual prompts, with an account of every record that could not be used.

No record disappears: each is a prompt or is counted under a reason, and more damaged ones than tolerated are an
InputError that names the first. Damaged files, ids that occur twice and files without a usable prompt are InputErrors
whatever the tolerance. The order of prompts is that of the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import InputError, UsageError
from ..data_set import BadRecord
from ..sources.files import bare_suffix, head, long_head, values
from .factual_set import SETS, Entry, FactualSet, Unusable, get
from .records import FactualPrompt

FAIL_OVER = 0.01


@dataclass(frozen=True)
class FactualReading:
    """The usable prompts. records: values in the files; bad: records or parts of them without a prompt, by reason."""

    prompts: tuple[FactualPrompt, ...]
    files: tuple[Path, ...]
    records: int
    bad: Mapping[str, int]


def read_factual(
    name: str, paths: Path | str | Sequence[Path | str], *, fail_over: float = FAIL_OVER
) -> FactualReading:
    """Every prompt of the set `name` in `paths`: its files, or folders that hold them (not searched below).

    fail_over: the share of bad records that is tolerated. Raises UsageError for a set that does not exist, InputError
    for files that are missing, damaged, of another form, or hold too many bad records.
    """
    chosen = get(name)
    if not 0.0 <= fail_over <= 1.0:
        raise UsageError(f"the tolerated share of bad records is {fail_over}; it must be from 0 to 1")
    given = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    files = [file for path in given for file in _files(chosen, path)]
    if not files:
        raise UsageError(f"no file to read {chosen.title} from")
    entries: list[Entry] = []
    problems: list[Unusable] = []
    records = 0
    for path in files:
        for entry in values(path):
            records += 1
            where = f"{path}, {entry.where}"
            if entry.problem:
                problems.append(Unusable(where, BadRecord(entry.problem)))
            elif not isinstance(entry.value, Mapping):
                problems.append(Unusable(where, BadRecord("wrong_type", "a record is not an object")))
            else:
                entries.append(Entry(where, entry.value))
    prompts: list[FactualPrompt] = []
    for made in chosen.prompts(entries):
        problems.append(made) if isinstance(made, Unusable) else prompts.append(made)
    _check(chosen, files, prompts, problems, fail_over)
    bad = Counter(problem.bad.reason for problem in problems)
    return FactualReading(tuple(prompts), tuple(files), records, dict(sorted(bad.items())))


def owner(path: Path) -> FactualSet | None:
    """The set whose form a file has, None where it has that of none.

    Raises InputError for a file too damaged to look into, and for one that two sets recognise, naming both.
    """
    owners = [known for known in SETS.all().values() if belongs(known, path)]
    if len(owners) > 1:
        both = " and ".join(f"{known.title} ({known.name})" for known in owners)
        raise InputError(f"{path}: has the form of {both}, and only one of them can own it; name the set and this file")
    return owners[0] if owners else None


def belongs(chosen: FactualSet, path: Path) -> bool:
    """Whether the first value of a file is one of this set; InputError for a file too damaged to look into."""
    sample = (head(path) or long_head(path)) if bare_suffix(path) else []
    return bool(sample) and chosen.recognise(sample[0])


def _files(chosen: FactualSet, path: Path) -> list[Path]:
    if not path.is_dir():
        if not belongs(chosen, path):
            raise InputError(f"{path}: not a {chosen.title} file; expected {chosen.expects}")
        return [path]
    inside = sorted(file for file in path.iterdir() if file.is_file() and bare_suffix(file))
    found = [file for file in inside if belongs(chosen, file) and owner(file) is chosen]
    if not found:
        seen = ", ".join(file.name for file in inside[:8]) or "no data file"
        raise InputError(f"{path}: holds no {chosen.title} file, but {seen}; expected {chosen.expects}")
    return found


def _check(
    chosen: FactualSet,
    files: Sequence[Path],
    prompts: Sequence[FactualPrompt],
    problems: Sequence[Unusable],
    fail_over: float,
) -> None:
    where = ", ".join(map(str, files))
    counted = len(prompts) + len(problems)
    damaged = sum(problem.bad.reason not in chosen.tolerated for problem in problems)
    if problems and (not prompts or damaged / counted > fail_over):
        reasons = ", ".join(f"{r} {n}" for r, n in sorted(Counter(p.bad.reason for p in problems).items()))
        raise InputError(
            f"{where}: {len(problems)} of {counted} {chosen.title} records cannot be used ({reasons}); "
            f"the first: {problems[0].where}: {problems[0].bad}; mend the file, or fetch it again"
        )
    if not prompts:
        raise InputError(f"{where}: holds no prompt, although it has the form of {chosen.title}; fetch it again")
    ids = Counter(prompt.id for prompt in prompts)
    twice = next((prompt.id for prompt in prompts if ids[prompt.id] > 1), None)
    if twice is not None:
        raise InputError(f"{where}: the id {twice!r} is there twice; remove one of the two, or read one file only")
