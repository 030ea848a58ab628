"""The one record type that every data set is read into, and its Arrow schema.

A `Question` holds what a data set says: the question, its context as titled paragraphs of sentences, every accepted
answer and where the evidence is. Classification and prompt generation fill the fields from `category` on.
The schema follows from the fields; every stage that stores questions stores exactly these columns. Tables of earlier
versions, which lack the columns of `ADDED_LATER`, are read with the defaults of those.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..core.errors import InputError
from ..core.json_files import parse

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


@dataclass(frozen=True, order=True)
class Support:
    """Evidence: sentence `sentence` (0-based) of paragraph `paragraph` (0-based) of the question's context."""

    paragraph: int
    sentence: int


@dataclass(frozen=True)
class Date:
    """A date answer in words as the data set has them; parts that are not given are empty."""

    day: str = ""
    month: str = ""
    year: str = ""


@dataclass(frozen=True)
class TypedAnswer:
    """An answer of DROP: a number, a date, or one or several spans that belong together."""

    number: str = ""
    date: Date = Date()
    spans: tuple[str, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """What a prediction is compared with: the number, else the spans, else the date; no empty ones."""
        if self.number.strip():
            return (self.number,)
        if spans := tuple(span for span in self.spans if span.strip()):
            return spans
        date = " ".join(part for part in (self.date.day, self.date.month, self.date.year) if part.strip())
        return (date,) if date else ()

    def as_object(self) -> dict[str, Any]:
        """The answer object as the original data set writes it."""
        return {"number": self.number, "date": dataclasses.asdict(self.date), "spans": list(self.spans)}


@dataclass(frozen=True)
class SubQuestion:
    """One step of a decomposed question; `#1` in its text stands for the answer of the first step.

    `paragraph` is the position in the context of the paragraph that answers it, None where there is none.
    """

    question: str
    answer: str
    paragraph: int | None = None
    id: int | None = None  # of the single question that the data set made the step from


@dataclass(frozen=True)
class Question:
    """One question with its context, answers and evidence."""

    id: str
    dataset: str
    split: str
    question: str
    context: tuple[Paragraph, ...] = ()
    answers: tuple[str, ...] = ()
    answer_starts: tuple[int, ...] = ()  # of each answer: character of `source_text` where it begins; () if unknown
    typed_answers: tuple[TypedAnswer, ...] = ()  # first the answer, then those of further annotators
    answerable: bool | None = None  # from its context; None: the data set does not say
    metric: str = ""  # name under which mplat.scoring.metrics scores a prediction
    supporting_facts: tuple[Support, ...] = ()
    hops: int | None = None
    decomposition: tuple[SubQuestion, ...] = ()
    licence: str = ""
    source_fields: str = ""  # what else the data set's schema needs, as a JSON object; "" for nothing
    # filled by classification or by prompt generation
    category: str = ""
    level: int | None = None
    rule_set: str = ""
    reason: str = ""
    n_facts: int | None = None
    context_words: int | None = None
    context_tokens: int | None = None
    evidence_distance: tuple[int, ...] = ()  # words from each piece of evidence to the question
    evidence_tokens: tuple[int, ...] = ()  # the same distances in tokens
    prompt: str | None = None  # full text given to the model; None: rendered by the evaluation's template
    # of prompts that were made from another question (`datasets.facts`)
    control: str = ""  # kind of control: a question that its text does not answer; "" for one that it does
    derived_from: str = ""  # id of the question that this one was made from; "" for an original
    distance_target: int | None = None  # asked-for distance from the evidence to the question, in tokens or facts
    distance_tokens: int | None = None  # the distance that there is, in tokens of the shipped tokenizer
    prompt_digest: str = ""  # sha256 of `prompt`; "" where that is None
    group: str = ""  # what several questions have in common: a document, an article, an entity; "" for nothing

    @property
    def origin(self) -> str:
        """The group, else the original question: all of one origin shares a side of the split, and depends on each
        other in intervals and tests."""
        return self.group or self.original

    @property
    def original(self) -> str:
        """The id of the question that this one was made from, else its own: what counts as one question."""
        return self.derived_from or self.id

    def context_text(self) -> str:
        """The context as plain text: paragraphs separated by newlines, sentences by single spaces."""
        return rendered(self.context)

    def source_text(self) -> str:
        """The sentences as the data set has them, white space included, one after the other."""
        return "".join(sentence for paragraph in self.context for sentence in paragraph.sentences)

    def source(self) -> dict[str, Any]:
        """The content of `source_fields`."""
        return json.loads(self.source_fields) if self.source_fields else {}

    def gold(self) -> Any:
        """What `mplat.eval.metrics.score(self.metric, prediction, gold)` compares with; None where nothing can be."""
        from .prompting.gold import gold

        return gold(self)


def rendered(context: Iterable[Paragraph]) -> str:
    """Paragraphs separated by newlines, sentences by single spaces."""
    return "\n".join(" ".join(sentence.strip() for sentence in paragraph.sentences) for paragraph in context)


def source_fields(**fields: Any) -> str:
    """Those of `fields` that hold anything, as the text for `Question.source_fields`; the same for the same fields."""
    kept = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":")) if kept else ""


#: fields that are stored in another width than the 32 bits of whole numbers
_WIDTHS = {"Question.hops": pa.int8(), "Question.level": pa.int8(), "SubQuestion.id": pa.int64()}


def _columns(record: type) -> list[pa.Field]:
    """A column for each field of a record; what has no default is never null."""
    hints = typing.get_type_hints(record)
    return [
        pa.field(
            field.name,
            _WIDTHS.get(f"{record.__name__}.{field.name}") or _column_type(hints[field.name]),
            nullable=record is not Question or field.default is not dataclasses.MISSING,
        )
        for field in dataclasses.fields(record)
    ]


def _column_type(kind: Any) -> pa.DataType:
    """How a value of a field is stored: texts, whole numbers, truth values, lists of one kind, and records in it."""
    if dataclasses.is_dataclass(kind):
        return pa.struct(_columns(typing.cast(type, kind)))
    if typing.get_origin(kind) is tuple:
        return pa.list_(_column_type(typing.get_args(kind)[0]))
    plain = next(iter(typing.get_args(kind)), kind)  # of "int | None" the first
    return {str: pa.string(), int: pa.int32(), bool: pa.bool_()}[plain]


QUESTION_SCHEMA = pa.schema(_columns(Question))
ADDED_LATER = frozenset(
    {
        "answer_starts",
        "typed_answers",
        "answerable",
        "decomposition",
        "source_fields",
        "context_tokens",
        "evidence_tokens",
        "control",
        "derived_from",
        "distance_target",
        "distance_tokens",
        "prompt_digest",
        "group",
    }
)


def to_table(questions: Iterable[Question]) -> pa.Table:
    """Questions as an Arrow table in `QUESTION_SCHEMA`, in the order given."""
    rows: list[dict[str, Any]] = [dataclasses.asdict(q) for q in questions]
    return pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA)


def from_table(table: pa.Table, *, source: str = "table") -> list[Question]:
    """The inverse of `to_table`. A table older than a column of `ADDED_LATER` has that column's default.

    Raises InputError naming `source` where another column is missing or a value has another type.
    """
    missing = [name for name in QUESTION_SCHEMA.names if name not in table.column_names]
    if needed := [name for name in missing if name not in ADDED_LATER]:
        raise InputError(
            f"{source}: not a question table, missing columns {', '.join(needed)}; "
            "make one with `mplat classify` or `mplat prompts`"
        )
    there = pa.schema([field for field in QUESTION_SCHEMA if field.name not in missing])
    try:
        rows = table.select(there.names).cast(there).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"{source}: a column does not have the question table's type ({error})") from error
    for row in rows:
        if row.get("source_fields") and not isinstance(parse(row["source_fields"], f"{source}: source_fields"), dict):
            raise InputError(f"{source}: source_fields of question {row['id']!r} holds no JSON object")
    return [_question(row) for row in rows]


def _question(row: dict[str, Any]) -> Question:
    row["context"] = tuple(Paragraph(p["title"] or "", tuple(p["sentences"] or ())) for p in row["context"] or ())
    row["supporting_facts"] = tuple(Support(**s) for s in row["supporting_facts"] or ())
    row["typed_answers"] = tuple(
        TypedAnswer(
            answer["number"] or "",
            Date(**{part: value or "" for part, value in (answer["date"] or {}).items()}),
            tuple(answer["spans"] or ()),
        )
        for answer in row.get("typed_answers") or ()
    )
    row["decomposition"] = tuple(
        SubQuestion(**{**step, "question": step["question"] or "", "answer": step["answer"] or ""})
        for step in row.get("decomposition") or ()
    )
    for column in dataclasses.fields(Question):
        if column.default == ():
            row[column.name] = tuple(row.get(column.name) or ())
        elif column.default == "":
            row[column.name] = row.get(column.name) or ""
    return Question(**row)
