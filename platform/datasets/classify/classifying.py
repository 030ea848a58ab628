"""The classify stage: data sets in, a balanced table of categorised questions and its summary out.

`classify` judges one question and depends on nothing but it. `gather` finds and reads, `classify_gathered` judges in a
session of the runtime and draws, `classify_folder` does both; `write` stores the table (columns of `QUESTION_SCHEMA`)
and the summary, each whole or not at all. The same files and arguments give the same bytes, wherever and on however
many workers the questions are judged.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError, UsageError, suggest
from ...runtime import Progress, Session, open_session
from ..data_set import DataSet, get
from ..reading import FAIL_OVER, Reading, read
from ..records import CATEGORIES, LEVEL_OF_CATEGORY, Question, to_table
from ..sources.finding import find
from .category_rules import RULE_SETS
from .classify_work import bundles, filled, judge_all, judged
from .selection import Selection, select
from .token_counts import TINY, TokenCounter, open_counter


class Classified(NamedTuple):
    """A question with its category fields filled, and the kinds of ambiguity in its verdict."""

    question: Question
    ambiguities: tuple[str, ...]


class Classification(NamedTuple):
    """The drawn questions and the account of everything there was; `summary` is plain JSON."""

    questions: tuple[Question, ...]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """What was read of each data set, by its name. left_out: files that were not, and why; places: how files are
    named in the summary; missing: data sets without a file, where whatever is there was asked for."""

    readings: Mapping[str, Reading]
    left_out: Mapping[str, tuple[str, ...]]
    places: Mapping[Path | str, str]
    missing: tuple[str, ...] = ()

    @cached_property
    def questions(self) -> list[Question]:
        """All questions, data set by data set."""
        return [question for reading in self.readings.values() for question in reading.questions]

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """The shards of work: what one worker judges at a time."""
        return bundles(self.questions)


@lru_cache(maxsize=1)
def _default_counter() -> TokenCounter:
    return open_counter()


def classify(
    question: Question, data_set: DataSet, rule_set: str = "evidence", counter: TokenCounter | None = None
) -> Classified:
    """One question with category, level, reason, hops, number of facts, words, tokens and distances filled."""
    row = judged(question, data_set, rule_set, counter or _default_counter())
    return Classified(filled(question, rule_set, row), tuple(row["ambiguities"]))


def gather(
    names: Sequence[str],
    data_dir: Path | str | None,
    *,
    hub: Sequence[str] = (),
    fail_over: float = FAIL_OVER,
    whatever_is_there: bool = False,
) -> Gathered:
    """The questions of the data sets `names` below `data_dir` or, where `hub` names splits, of their copies there.

    whatever_is_there: leave out the data sets that have no file there, as long as one has.
    Raises UsageError for an unknown name, InputError for files that are missing, damaged, empty, or have a larger
    share of bad records than `fail_over`.
    """
    wanted = sorted(set(names))
    if not wanted:
        raise UsageError("no data set is named; give some with --datasets")
    if hub:
        from ..sources.hub import read_hub

        readings = {name: read_hub(name, splits=hub, fail_over=fail_over) for name in wanted}
        return Gathered(readings, dict.fromkeys(wanted, ()), {})
    if data_dir is None:
        raise UsageError("no folder of data files is named; give one with --data-dir")
    root = Path(data_dir)
    found = find(wanted, root, whatever_is_there=whatever_is_there)
    missing = tuple(name for name in wanted if name not in found)
    wanted = [name for name in wanted if name in found]
    readings = {name: read(name, found[name].files, fail_over=fail_over) for name in wanted}
    paths = [path for entry in found.values() for path in entry.files]
    return Gathered(
        readings,
        {name: found[name].notes for name in wanted},
        {path: path.name if root.is_file() else path.relative_to(root).as_posix() for path in paths},
        missing,
    )


def classify_gathered(
    gathered: Gathered,
    *,
    rule_set: str = "evidence",
    tokenizer: str = TINY,
    per_dataset: int = 500,
    per_category: int = 100,
    seed: int = 0,
    session: Session | None = None,
    work: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Classification:
    """Every question judged in `session` (by default in this process), and a sample of them drawn.

    `work` is a folder in which an interrupted run continues; by default one that is deleted. Raises UsageError for an
    unknown rule set or a negative number, InputError where there is no such tokenizer or no question is drawn.
    """
    check(rule_set, per_dataset, per_category)
    counter = open_counter(tokenizer)
    with ExitStack() as stack:
        place = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mplat-classify-")))
        where = session or stack.enter_context(open_session("none"))
        rows = judge_all(gathered.items, rule_set, counter, session=where, work=place, progress=progress)
    classified = [
        Classified(filled(question, rule_set, row), tuple(row["ambiguities"]))
        for question, row in zip(gathered.questions, rows.to_pylist(), strict=True)
    ]
    selection = select(
        (entry.question for entry in classified), per_dataset=per_dataset, per_category=per_category, seed=seed
    )
    if not selection.questions:
        raise InputError(f"no question is left of {', '.join(gathered.readings)}; look at the files and the limits")
    settings = {"rule_set": rule_set, "seed": seed, "per_dataset": per_dataset, "per_category": per_category}
    return Classification(selection.questions, settings | _summary(gathered, classified, selection, counter))


def classify_folder(
    names: Sequence[str], data_dir: Path | str, *, fail_over: float = FAIL_OVER, **settings: Any
) -> Classification:
    """`gather` the data sets `names` below `data_dir`, and `classify_gathered` with `settings`."""
    check(settings.get("rule_set", "evidence"), settings.get("per_dataset", 0), settings.get("per_category", 0))
    return classify_gathered(gather(names, data_dir, fail_over=fail_over), **settings)


def write(result: Classification, path: Path) -> dict[str, Any]:
    """Store the table at `path` and the summary beside it as `<name>.summary.json`; returns the stored summary."""
    from ...core.whole_files import publish_json, replace_table

    keys = ("rule_set", "tokenizer", "seed", "per_dataset", "per_category")
    settings = {key: result.summary[key] for key in keys}
    table = to_table(result.questions).replace_schema_metadata({"mplat.classify": json.dumps(settings)})
    stored = replace_table(table, path)
    summary = {**result.summary, "table": {"file": path.name, "rows": stored.rows, "sha256": stored.sha256}}
    publish_json(summary, summary_path(path))
    return summary


def summary_path(path: Path) -> Path:
    """Where `write` puts the summary of the table at `path`."""
    return path.with_suffix(".summary.json")


def check(rule_set: str, per_dataset: int, per_category: int) -> None:
    """Raises UsageError for an unknown rule set or a number below 0, before anything is read."""
    if rule_set not in RULE_SETS:
        raise UsageError(f"there is no rule set {rule_set!r}; {suggest(rule_set, RULE_SETS)}")
    for option, value in (("--per-dataset", per_dataset), ("--per-category", per_category)):
        if value < 0:
            raise UsageError(f"{option} {value}: a number of questions, 0 for all of them")


def _summary(
    gathered: Gathered, classified: Sequence[Classified], selection: Selection, counter: TokenCounter
) -> dict[str, Any]:
    by_name: dict[str, list[Classified]] = {name: [] for name in gathered.readings}
    for entry in classified:
        by_name[entry.question.dataset].append(entry)
    given = Counter(question.dataset for question in selection.questions)
    return {
        "tokenizer": {"name": counter.name, "sha256": counter.digest},
        "questions": len(selection.questions),
        "datasets": {
            name: _account(name, gathered, entries) | {"taken": given[name]} for name, entries in by_name.items()
        },
        "categories": _categories(selection, classified),
        "shortfalls": [shortfall._asdict() for shortfall in selection.shortfalls],
    }


def _account(name: str, gathered: Gathered, entries: Sequence[Classified]) -> dict[str, Any]:
    """What there was of one data set; file names are relative, so that the summary is the same on every machine."""
    data_set, report = get(name), gathered.readings[name].report
    return {
        "title": data_set.title,
        "licence": data_set.licence,
        "files": [
            {
                "file": gathered.places.get(file.path, str(file.path)),
                "schema": file.schema,
                "records": file.records,
                "questions": file.questions,
            }
            for file in report.files
        ],
        "records": report.records,
        "questions": report.questions,
        "bad": dict(report.bad),
        "notes": dict(report.notes),
        "left_out": list(gathered.left_out[name]),
        "categories": _count(entry.question.category for entry in entries),
        "ambiguous": dict(sorted(Counter(kind for entry in entries for kind in entry.ambiguities).items())),
        "context_tokens": _spread(entry.question.context_tokens or 0 for entry in entries),
        "evidence_tokens": _spread(d for entry in entries for d in entry.question.evidence_tokens),
    }


def _spread(numbers: Iterable[int]) -> dict[str, int] | None:
    """The least, the lower of the middle, and the greatest number; None where there is none."""
    ordered = sorted(numbers)
    return {"min": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "max": ordered[-1]} if ordered else None


def _categories(selection: Selection, classified: Sequence[Classified]) -> dict[str, dict[str, Any]]:
    """Of each category: its level, how many there are, how many are ambiguous, how many were taken."""
    ambiguous = Counter(entry.question.category for entry in classified if entry.ambiguities)
    return {
        category: {
            "level": LEVEL_OF_CATEGORY[category],
            "available": selection.available[category],
            "ambiguous": ambiguous[category],
            "taken": selection.taken[category],
        }
        for category in CATEGORIES
    }


def _count(categories: Iterable[str]) -> dict[str, int]:
    counted = Counter(categories)
    return {category: counted[category] for category in CATEGORIES if counted[category]}
