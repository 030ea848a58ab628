"""The part of classification that runs on workers: bundles of contexts with their questions in, one row each out.

Bundles are planned from the data alone, by characters, and a row depends on its question only, so the table is the
same wherever and on however many workers it is made. A worker is built from the names of a rule set and a tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...core.copies import placed
from ...runtime import Progress, Session, WorkerFactory, digest_of, run_table
from ..data_set import DataSet, get
from ..records import LEVEL_OF_CATEGORY, QUESTION_SCHEMA, Paragraph, Question, Support
from .category_rules import judge
from .evidence import evidence_of
from .token_counts import TokenCounter, files_of, open_counter

BUNDLE_CHARACTERS = 250_000  # about half a second of work
VERSION = 1  # of the rules and counts below: part of the key under which a run continues

#: columns of a question that judging it fills
_FILLED = (
    "category", "reason", "hops", "n_facts", "context_words", "context_tokens", "evidence_distance", "evidence_tokens",
)  # fmt: skip
JUDGED_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # of the question in the list that was given
        *(QUESTION_SCHEMA.field(name).with_nullable(name == "hops") for name in _FILLED),
        pa.field("ambiguities", pa.list_(pa.string()), nullable=False),
    ]
)


def judged(question: Question, data_set: DataSet, rule_set: str, counter: TokenCounter) -> dict[str, Any]:
    """The columns of `JUDGED_SCHEMA` for one question, but for its position."""
    counts = evidence_of(question, counter)
    verdict = judge(question, counts, rule_set, data_set)
    return verdict._asdict() | {
        "context_words": counts.words,
        "context_tokens": counts.tokens,
        "evidence_distance": counts.distances,
        "evidence_tokens": counts.token_distances,
    }


def filled(question: Question, rule_set: str, row: dict[str, Any]) -> Question:
    """`question` with the columns of its row."""
    columns = {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _FILLED}
    return dataclasses.replace(question, level=LEVEL_OF_CATEGORY[row["category"]], rule_set=rule_set, **columns)


def bundles(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Items for the workers, plain JSON: the questions of one context stay together while they follow each other."""
    items: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    size, context = 0, None
    for position, question in enumerate(questions):
        asked = {
            "position": position,
            "dataset": question.dataset,
            "question": question.question,
            "hops": question.hops,
            "supports": [[support.paragraph, support.sentence] for support in question.supporting_facts],
        }
        if question.context != context:
            context = question.context
            characters = sum(len(sentence) for paragraph in context for sentence in paragraph.sentences)
            if groups and size + characters > BUNDLE_CHARACTERS:
                items.append({"groups": groups})
                groups, size = [], 0
            groups.append({"context": [list(paragraph.sentences) for paragraph in context], "questions": []})
            size += characters
        groups[-1]["questions"].append(asked)
        size += len(question.question)
        if size > BUNDLE_CHARACTERS:
            items.append({"groups": groups})
            groups, size, context = [], 0, None
    return items + ([{"groups": groups}] if groups else [])


def judge_all(
    items: Sequence[dict[str, Any]],
    rule_set: str,
    counter: TokenCounter,
    *,
    session: Session,
    work: Path,
    progress: Callable[[Progress], None] | None = None,
) -> pa.Table:
    """The rows of all questions in `items`, by position; an interrupted run of the same work continues in `work`."""
    key = {"rule_set": rule_set, "tokenizer": counter.digest, "version": VERSION}
    name, files = files_of(counter.name)
    return run_table(
        "classify",
        items,
        WorkerFactory(
            f"{__name__}:make_worker", {"rule_set": rule_set, "tokenizer": name, "digest": counter.digest}, files
        ),
        out_dir=work / digest_of([key, items])[:12],
        session=session,
        batch_size=1,
        sort_by=["position"],
        schema=JUDGED_SCHEMA,
        semantic_key=key,
        progress=progress,
        rows_per_item=None,
    )


def make_worker(rule_set: str, tokenizer: str, digest: str) -> ClassifyWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    return ClassifyWorker(rule_set, open_counter(placed(tokenizer), digest=digest))


class ClassifyWorker:
    """Judges the questions of bundles."""

    def __init__(self, rule_set: str, counter: TokenCounter) -> None:
        self._rule_set, self._counter = rule_set, counter

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of the questions in `payload["items"]`, in their order."""
        rows = []
        for item in payload["items"]:
            for group in item["groups"]:
                context = tuple(Paragraph("", tuple(sentences)) for sentences in group["context"])
                for asked in group["questions"]:
                    question = Question(
                        id="",
                        dataset=asked["dataset"],
                        split="",
                        question=asked["question"],
                        context=context,
                        supporting_facts=tuple(Support(*place) for place in asked["supports"]),
                        hops=asked["hops"],
                    )
                    row = judged(question, get(question.dataset), self._rule_set, self._counter)
                    rows.append({"position": asked["position"], **row})
        return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)
