"""The one record type that every data set is read into, and its Arrow schema.

A `Question` holds what a data set says: the question, its context as titled paragraphs of sentences, every accepted
answer and where the evidence is. Classification and prompt generation fill the fields from `category` on.
The schema is written down once, here; every stage that stores questions stores exactly these columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..errors import InputError

CATEGORIES = (
    "simple_recall",
    "two_hop",
    "three_hop",
    "long_context",
    "combined",
    "stress_test",
    "query_dataset",
)
LEVEL_OF_CATEGORY: dict[str, int | None] = {name: i + 1 if i < 6 else None for i, name in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Paragraph:
    """A titled paragraph; `title` is empty where the data set has none."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Support:
    """Evidence: sentence `sentence` (0-based) of paragraph `paragraph` (0-based) of the question's context."""

    paragraph: int
    sentence: int


@dataclass(frozen=True)
class Question:
    """One question with its context, answers and evidence."""

    id: str
    dataset: str
    split: str
    question: str
    context: tuple[Paragraph, ...] = ()
    answers: tuple[str, ...] = ()
    metric: str = ""  # name under which mplat.eval.metrics scores a prediction
    supporting_facts: tuple[Support, ...] = ()
    hops: int | None = None
    licence: str = ""
    # filled by classification or by prompt generation
    category: str = ""
    level: int | None = None
    rule_set: str = ""
    reason: str = ""
    n_facts: int | None = None
    context_words: int | None = None
    evidence_distance: tuple[int, ...] = field(default=())  # words from each piece of evidence to the question
    prompt: str | None = None  # full text given to the model; None: rendered by the evaluation's template

    def context_text(self) -> str:
        """The context as plain text: paragraphs separated by newlines, sentences by single blanks."""
        return "\n".join(" ".join(s.strip() for s in p.sentences) for p in self.context)


QUESTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("context", pa.list_(pa.struct([("title", pa.string()), ("sentences", pa.list_(pa.string()))]))),
        pa.field("answers", pa.list_(pa.string())),
        pa.field("metric", pa.string()),
        pa.field("supporting_facts", pa.list_(pa.struct([("paragraph", pa.int32()), ("sentence", pa.int32())]))),
        pa.field("hops", pa.int8()),
        pa.field("licence", pa.string()),
        pa.field("category", pa.string()),
        pa.field("level", pa.int8()),
        pa.field("rule_set", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("n_facts", pa.int32()),
        pa.field("context_words", pa.int32()),
        pa.field("evidence_distance", pa.list_(pa.int32())),
        pa.field("prompt", pa.string()),
    ]
)


def to_table(questions: Iterable[Question]) -> pa.Table:
    """Questions as an Arrow table in `QUESTION_SCHEMA`, in the order given."""
    rows: list[dict[str, Any]] = [dataclasses.asdict(q) for q in questions]
    return pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA)


def from_table(table: pa.Table, *, source: str = "table") -> list[Question]:
    """The inverse of `to_table`.

    Raises InputError naming `source` where a column is missing or a value has another type.
    """
    missing = [name for name in QUESTION_SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(
            f"{source}: not a question table, missing columns {', '.join(missing)}; "
            "make one with `mplat classify` or `mplat prompts`"
        )
    try:
        rows = table.select(QUESTION_SCHEMA.names).cast(QUESTION_SCHEMA).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise InputError(f"{source}: a column does not have the question table's type ({error})") from error
    questions = []
    for row in rows:
        row["context"] = tuple(Paragraph(p["title"] or "", tuple(p["sentences"] or ())) for p in row["context"] or ())
        row["supporting_facts"] = tuple(Support(**s) for s in row["supporting_facts"] or ())
        row["answers"] = tuple(row["answers"] or ())
        row["evidence_distance"] = tuple(row["evidence_distance"] or ())
        for name in ("metric", "licence", "category", "rule_set", "reason"):
            row[name] = row[name] or ""
        questions.append(Question(**row))
    return questions
