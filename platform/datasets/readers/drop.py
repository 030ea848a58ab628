"""DROP: questions whose answer has to be counted, compared or added up from a paragraph.

Reads the original files (passages with their questions), EleutherAI/drop (flat, the same answer objects), ucinlp/drop
(flat, answers as typed texts), and the text form {context, completion, ref_text} in which references are joined by
"|". The last two have lost how spans belong together: of ucinlp/drop the spans of a training row are one answer,
because one person gave them, and those of a validation row are answers each; a reference text is one span.

`typed_answers` are the answer objects, first the answer, then the validated ones; `answers` are the same in words,
several spans joined by "and". Sentences in which an answer occurs are the evidence. Questions on one passage are a
group. Ids of the people who answered are not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import Any, NamedTuple

from ..data_set import BadRecord, DataSet, HubCopy, Sample, dataset, first_object
from ..records import Date, Paragraph, Question, TypedAnswer, source_fields
from .fields import (
    bad_as_last,
    document,
    field,
    identifier,
    items_of,
    objects,
    optional_text,
    optional_texts,
    question_text,
    text,
    texts,
)
from .occurrences import occurrences
from .sentences import EXAMPLE, split_sentences

_REFERENCE = re.compile(r"Passage: (?P<passage>.*)\nQuestion: (?P<question>.*)\nAnswer:\s*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DATE = re.compile(r"(?:(?P<day>\d{1,2})(?:\s+|$))?(?:(?P<month>[^\W\d]+\.?)(?:\s+|$))?(?P<year>\d+)?")

_NOBODY = {"worker_id": "", "hit_id": ""}  # who gave an answer
_NO_DATE = {"day": "", "month": "", "year": ""}
#: answer objects of the sample: a date, a number, spans
ANSWERS: list[dict[str, Any]] = [
    {"number": "", "date": {"day": "8", "month": "March", "year": "2010"}, "spans": []},
    {"number": "3", "date": _NO_DATE, "spans": []},
    {"number": "", "date": _NO_DATE, "spans": ["Rome", "3 dogs"]},
]


class _Item(NamedTuple):
    record: Any
    section: str
    passage: str


@dataset("drop")
class Drop(DataSet):
    """DROP in the original schema, both of Hugging Face's, and as reference texts."""

    title = "DROP"
    metric = "drop"
    licence = "CC BY-SA 4.0"
    categories = ("combined",)
    annotated_supports = False
    hub_copies = (HubCopy("ucinlp/drop", "default", "95cda593fae71b60b5b19f82de3fcf3298c1239c"),)
    expects = (
        "{passage id: {passage, qa_pairs}}, or rows of query_id, passage, question, and answer or answers_spans, "
        "or rows of context, completion, ref_text"
    )
    path_hint = re.compile(r"(?<![a-z])drop(?![a-z])", re.IGNORECASE)
    remarks = {"no_answer": "the test files of DROP have no answers"}
    sample = Sample(
        rows=[
            {
                "section_id": "history_1", "query_id": "d1", "passage": EXAMPLE, "question": "When?",
                "answer": ANSWERS[0] | _NOBODY,
                "validated_answers": {
                    "number": ["3", ""], "date": [_NO_DATE, _NO_DATE], "spans": [[], ["Rome", "3 dogs"]],
                    "worker_id": ["", ""], "hit_id": ["", ""],
                },
            },
            {
                "section_id": "history_1", "query_id": "d2", "passage": EXAMPLE, "question": "How many?",
                "answer": ANSWERS[1] | _NOBODY,
                "validated_answers": {"number": [], "date": [], "spans": [], "worker_id": [], "hit_id": []},
            },
        ],
        original=[{"history_1": {
            "passage": EXAMPLE, "wiki_url": "x",
            "qa_pairs": [
                {"question": "When?", "query_id": "d1", "answer": ANSWERS[0], "validated_answers": ANSWERS[1:]},
                {"question": "How many?", "query_id": "d2", "answer": ANSWERS[1]},
            ],
        }}],
        suffix=".json",
    )  # fmt: skip

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the passages and their questions, or by the columns."""
        first = first_object(sample)
        if {"query_id", "passage", "question"} <= first.keys() and ("answer" in first or "answers_spans" in first):
            return "Hugging Face (ucinlp)" if "answers_spans" in first else "Hugging Face (EleutherAI)"
        if {"context", "completion", "ref_text"} <= first.keys():
            return "reference texts"
        sections = [first] if "qa_pairs" in first else list(first.values())[:1]
        if sections and isinstance(sections[0], Mapping) and {"passage", "qa_pairs"} <= sections[0].keys():
            return "original"
        return None

    @bad_as_last
    def items(self, value: Any) -> Iterator[_Item | BadRecord]:
        """One item for each question of a file, a passage or a row."""
        if not isinstance(value, Mapping):
            raise BadRecord("wrong_type", "a record is not an object")
        if "ref_text" in value:
            yield _Item(value, "", "")
        elif "qa_pairs" in value and {"passage", "question", "query_id"} & value.keys():
            yield from _section("", value)
        elif {"passage", "question", "query_id"} & value.keys():
            yield _Item(value, optional_text(value, "section_id"), text(value, "passage"))
        else:
            for section_id, section in value.items():
                yield from _section(section_id, section)

    def question(self, item: _Item, split: str, notes: Counter[str]) -> Question:
        """The question with its passage in sentences and its typed answers."""
        record, passage = item.record, item.passage
        if isinstance(record, Mapping) and "ref_text" in record:
            match = _REFERENCE.fullmatch(text(record, "context"))
            if match is None:
                raise BadRecord("wrong_type", "'context' is not 'Passage: ... Question: ... Answer:'")
            question_id, passage, question = "", match["passage"], question_text(match.groupdict(), "question")
            typed = _from_reference(text(record, "ref_text"))
        else:
            question_id, question = identifier(record, "query_id"), question_text(record, "question")
            if "answers_spans" in record:
                typed = _from_spans(record, split, notes)
            else:
                validated = objects(record, "validated_answers") if record.get("validated_answers") else []
                typed = tuple(_typed(answer) for answer in (field(record, "answer"), *validated))
        typed = tuple(answer for answer in typed if answer.texts())
        if not typed:
            raise BadRecord("no_answer", "no number, date or span")
        if not passage.strip():
            raise BadRecord("missing_field", "'passage' is blank")
        context = _cut(passage)
        return self.asked(
            question_id,
            split,
            question,
            context=context,
            answers=tuple(dict.fromkeys(" and ".join(answer.texts()) for answer in typed)),
            typed_answers=typed,
            supporting_facts=occurrences(context, (form for answer in typed for form in answer.texts())),
            source_fields=source_fields(section_id=item.section),
            group=document("", passage),
        )

    def row(self, question: Question) -> dict[str, Any]:
        """The row of EleutherAI/drop, which keeps the answer objects; ids of people are empty."""
        answer, *validated = (answer.as_object() for answer in question.typed_answers)
        return {
            "section_id": question.source().get("section_id", ""),
            "query_id": question.id,
            "passage": question.source_text(),
            "question": question.question,
            "answer": {**answer, **_NOBODY},
            "validated_answers": {
                name: [{**other, **_NOBODY}[name] for other in validated]
                for name in ("number", "date", "spans", "worker_id", "hit_id")
            },
        }


@bad_as_last
def _section(section_id: str, section: Any) -> Iterator[_Item]:
    passage = text(section, "passage")
    yield from (_Item(qa, section_id, passage) for qa in items_of(section, "qa_pairs"))


def _typed(answer: Any) -> TypedAnswer:
    if not isinstance(answer, Mapping):
        raise BadRecord("wrong_type", "an answer is not an object of number, date and spans")
    date = answer.get("date")
    if date is not None and not isinstance(date, Mapping):
        raise BadRecord("wrong_type", "'date' is not an object of day, month and year")
    parts = {part: optional_text(date, part) for part in ("day", "month", "year")}
    return TypedAnswer(optional_text(answer, "number"), Date(**parts), optional_texts(answer, "spans"))


def _from_spans(record: Mapping[str, Any], split: str, notes: Counter[str]) -> tuple[TypedAnswer, ...]:
    given = field(record, "answers_spans")
    spans, types = texts(given, "spans"), texts(given, "types")
    if len(spans) != len(types):
        raise BadRecord("wrong_type", f"{len(spans)} answer spans but {len(types)} types")
    if unknown := set(types) - {"number", "date", "span"}:
        raise BadRecord("wrong_type", f"an answer of type {min(unknown)!r}")
    if set(types) == {"span"} and split == "train":
        return (TypedAnswer(spans=spans),)
    if types.count("span") > 1:
        notes["rows of several spans that may belong together, read as an answer each"] += 1
    made = {
        "number": lambda span: TypedAnswer(number=span),
        "date": lambda span: TypedAnswer(date=_date(span)),
        "span": lambda span: TypedAnswer(spans=(span,)),
    }
    return tuple(made[kind](span) for span, kind in zip(spans, types, strict=True))


def _date(words: str) -> Date:
    """A date written as day, month and year, of which some may be missing; a lone small number is a day."""
    match = _DATE.fullmatch(words.strip())
    return Date(**{part: value or "" for part, value in match.groupdict().items()}) if match else Date(year=words)


def _from_reference(references: str) -> tuple[TypedAnswer, ...]:
    return tuple(
        TypedAnswer(number=alternative) if _NUMBER.fullmatch(alternative) else TypedAnswer(spans=(alternative,))
        for alternative in map(str.strip, references.split("|"))
    )


@lru_cache(maxsize=64)  # the questions of one passage follow each other
def _cut(passage: str) -> tuple[Paragraph, ...]:
    return (Paragraph("", split_sentences(passage)),)
