"""The classify stage: data sets in, a balanced table of categorised questions and its summary out.

`classify` judges questions one by one and depends on nothing but them; `classify_folder` finds, reads, judges and
draws; `write` stores the table (columns of `QUESTION_SCHEMA`) and the summary, each whole or not at all. The same
files and arguments give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, UsageError, suggest
from .category_rules import RULE_SETS, judge
from .evidence import evidence_of
from .finding import Found, find
from .reading import FAIL_OVER, ReadReport, read
from .records import CATEGORIES, LEVEL_OF_CATEGORY, Question, to_table
from .registry import DataSet, get
from .selection import Selection, select


class Classified(NamedTuple):
    """A question with its category fields filled, and the kinds of ambiguity in its verdict."""

    question: Question
    ambiguities: tuple[str, ...]


class Classification(NamedTuple):
    """The drawn questions and the account of everything there was; `summary` is plain JSON."""

    questions: tuple[Question, ...]
    summary: dict[str, Any]


def classify(question: Question, data_set: DataSet, rule_set: str = "evidence") -> Classified:
    """One question with category, level, reason, hops, number of facts, words and distances filled."""
    counts = evidence_of(question)
    verdict = judge(question, counts, rule_set, data_set)
    return Classified(
        dataclasses.replace(
            question,
            hops=verdict.hops,
            category=verdict.category,
            level=LEVEL_OF_CATEGORY[verdict.category],
            rule_set=rule_set,
            reason=verdict.reason,
            n_facts=verdict.n_facts,
            context_words=counts.words,
            evidence_distance=counts.distances,
        ),
        verdict.ambiguities,
    )


def classify_folder(
    names: Sequence[str],
    data_dir: Path | str,
    *,
    rule_set: str = "evidence",
    per_dataset: int = 500,
    per_category: int = 100,
    seed: int = 0,
    fail_over: float = FAIL_OVER,
) -> Classification:
    """Every question of the data sets `names` below `data_dir`, judged, and a sample of them drawn.

    Raises UsageError for an unknown name or rule set, InputError for files that are missing, damaged, empty, or have a
    larger share of bad records than `fail_over`.
    """
    if rule_set not in RULE_SETS:
        raise UsageError(f"there is no rule set {rule_set!r}; {suggest(rule_set, RULE_SETS)}")
    for option, value in (("--per-dataset", per_dataset), ("--per-category", per_category)):
        if value < 0:
            raise UsageError(f"{option} {value}: a number of questions, 0 for all of them")
    root, wanted = Path(data_dir), sorted(set(names))
    if not wanted:
        raise UsageError("no data set is named; give some with --datasets")
    found = find(wanted, root)
    classified: list[Classified] = []
    accounts: dict[str, dict[str, Any]] = {}
    for name in wanted:
        reading = read(name, found[name].files, fail_over=fail_over)
        judged = [classify(question, get(name), rule_set) for question in reading.questions]
        classified += judged
        accounts[name] = _account(get(name), reading.report, found[name], judged, root)
    selection = select(
        (entry.question for entry in classified), per_dataset=per_dataset, per_category=per_category, seed=seed
    )
    if not selection.questions:
        raise InputError(f"{root}: no question is left of {', '.join(wanted)}; look at the files and the limits")
    given = Counter(question.dataset for question in selection.questions)
    for name in wanted:
        accounts[name]["taken"] = given[name]
    return Classification(
        selection.questions,
        {
            "rule_set": rule_set,
            "seed": seed,
            "per_dataset": per_dataset,
            "per_category": per_category,
            "questions": len(selection.questions),
            "datasets": accounts,
            "categories": _categories(selection, classified),
            "shortfalls": [shortfall._asdict() for shortfall in selection.shortfalls],
        },
    )


def write(result: Classification, path: Path) -> dict[str, Any]:
    """Store the table at `path` and the summary beside it as `<name>.summary.json`; returns the stored summary."""
    from ..runtime.storage import publish_json, replace_table

    settings = {key: result.summary[key] for key in ("rule_set", "seed", "per_dataset", "per_category")}
    table = to_table(result.questions).replace_schema_metadata({"mplat.classify": json.dumps(settings)})
    stored = replace_table(table, path)
    summary = {**result.summary, "table": {"file": path.name, "rows": stored.rows, "sha256": stored.sha256}}
    publish_json(summary, summary_path(path))
    return summary


def summary_path(path: Path) -> Path:
    """Where `write` puts the summary of the table at `path`."""
    return path.with_suffix(".summary.json")


def _account(
    data_set: DataSet, report: ReadReport, found: Found, judged: Sequence[Classified], root: Path
) -> dict[str, Any]:
    """What there was of one data set; file names are relative, so that the summary is the same on every machine."""
    return {
        "title": data_set.title,
        "licence": data_set.licence,
        "files": [
            {
                "file": _name(file.path, root),
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
        "left_out": list(found.notes),
        "categories": _count(entry.question.category for entry in judged),
        "ambiguous": dict(sorted(Counter(kind for entry in judged for kind in entry.ambiguities).items())),
    }


def _name(path: Path | str, root: Path) -> str:
    if isinstance(path, str):
        return path
    return path.name if root.is_file() else path.relative_to(root).as_posix()


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
