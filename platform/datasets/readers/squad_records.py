"""The records that SQuAD v1.1 and v2.0 have in common: paragraphs with questions and marked spans, nested or flat.

The paragraph is cut into real sentences; the sentences in which an answer lies are the evidence. Questions on one
paragraph are a group. What the two versions
disagree about, whether a question may have no answer, is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ...core.errors import UsageError
from ..data_set import BadRecord, DataSet, Sample
from ..records import Paragraph, Question, Support
from .fields import bad_as_last, document, each, field, identifier, items_of, question_text, text, texts
from .occurrences import sentence_starts, sentences_of
from .sentences import EXAMPLE, split_sentences

#: marked spans of the example
SPANS = [{"text": "Rome", "answer_start": 1}, {"text": "3 dogs", "answer_start": EXAMPLE.index("3 dogs")}]


class SquadItem(NamedTuple):
    """A question as it is given, with what stands above it."""

    record: Mapping[str, Any]
    title: str
    context: str


class Marked(NamedTuple):
    """The spans of a question and where they are."""

    context: tuple[Paragraph, ...]
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]
    supporting_facts: tuple[Support, ...]


def sample(version: str, *questions: Mapping[str, Any]) -> Sample:
    """`questions` about the example, as an original file of `version` and as flat rows."""
    spans = [[(span["text"], span["answer_start"]) for span in question["answers"]] for question in questions]
    rows = [
        {
            "id": question["id"],
            "title": "Rome",
            "context": EXAMPLE,
            "question": question["question"],
            "answers": {"text": [text for text, _ in marks], "answer_start": [start for _, start in marks]},
        }
        for question, marks in zip(questions, spans, strict=True)
    ]
    article = {"title": "Rome", "paragraphs": [{"context": EXAMPLE, "qas": list(questions)}]}
    return Sample(rows, [{"version": version, "data": [article]}], ".json")


class SquadRecords(DataSet):
    """Either version. What it makes of a question's answers, or of none, is `answerable`."""

    licence = "CC BY-SA 4.0"
    categories = ("simple_recall", "long_context", "stress_test")
    annotated_supports = False

    def answerable(self, record: Mapping[str, Any], answers: tuple[str, ...], notes: Counter[str]) -> bool | None:
        """The field of the question; raises BadRecord for answers that this version does not have."""
        raise UsageError(f"{type(self).__name__} does not say which questions are answerable")

    @bad_as_last
    def items(self, value: Any) -> Iterator[SquadItem | BadRecord]:
        """One item for each question of a document, an article or a flat row."""
        if not isinstance(value, Mapping):
            raise BadRecord("wrong_type", "a record is not an object")
        if "data" in value:
            yield from each(value, "data", self.items)
            return
        title = value.get("title")
        title = title if isinstance(title, str) else ""
        if "paragraphs" in value:
            yield from each(value, "paragraphs", lambda paragraph: _questions(paragraph, title))
        else:
            yield SquadItem(value, title, text(value, "context"))

    def question(self, item: SquadItem, split: str, notes: Counter[str]) -> Question:
        """The question with its paragraph cut into sentences and the sentences of its answers as evidence."""
        question_id, question = identifier(item.record, "id"), question_text(item.record, "question")
        found = marked(item)
        answerable = self.answerable(item.record, found.answers, notes)
        group = document(item.title, item.context)
        return self.asked(question_id, split, question, answerable=answerable, group=group, **found._asdict())

    def row(self, question: Question) -> dict[str, Any]:
        """id, title, context, question, answers{text, answer_start}: empty columns for an unanswerable question."""
        return {
            "id": question.id,
            "title": question.context[0].title,
            "context": question.source_text(),
            "question": question.question,
            "answers": {"text": list(question.answers), "answer_start": list(question.answer_starts)},
        }


def marked(item: SquadItem) -> Marked:
    """The paragraph in sentences, and the sentences of the answers; raises BadRecord."""
    if not item.context.strip():
        raise BadRecord("missing_field", "'context' is blank")
    paragraph, starts = _cut(item.title, item.context)
    spans = _answer_spans(item.record)
    evidence: set[int] = set()
    for answer, start in spans:
        if not item.context.startswith(answer, start) or start < 0:
            raise BadRecord("answer_not_in_context", f"{answer[:40]!r} is not at character {start} of the context")
        evidence.update(sentences_of(starts, start, start + len(answer.rstrip())))
    return Marked(
        (paragraph,),
        tuple(answer for answer, _ in spans),
        tuple(start for _, start in spans),
        tuple(Support(0, sentence) for sentence in sorted(evidence)),
    )


def first_paragraph(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first paragraph object if `document` nests as SQuAD does, be it a file or one article."""
    articles = document.get("data", [document])
    for article in articles if isinstance(articles, list) else ():
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        for paragraph in paragraphs if isinstance(paragraphs, list) else ():
            if isinstance(paragraph, Mapping) and "context" in paragraph:
                return paragraph
    return None


def holds_nothing(document: Mapping[str, Any]) -> bool:
    """Whether this is a file of the original form without one paragraph."""
    articles = document.get("data")
    return (
        "version" in document
        and isinstance(articles, list)
        and all(isinstance(article, Mapping) and article.get("paragraphs") == [] for article in articles)
    )


def is_flat(row: Mapping[str, Any]) -> bool:
    """Whether these are the columns of Hugging Face's schema."""
    spans = row.get("answers")
    return "context" in row and "question" in row and isinstance(spans, Mapping) and "answer_start" in spans


@bad_as_last
def _questions(paragraph: Any, title: str) -> Iterator[SquadItem]:
    context, qas = text(paragraph, "context"), items_of(paragraph, "qas")
    yield from (SquadItem(qa, title, context) for qa in qas)


def _answer_spans(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    given = field(record, "answers")
    if isinstance(given, Mapping):
        found, starts = texts(given, "text"), items_of(given, "answer_start")
        if len(found) != len(starts):
            raise BadRecord("wrong_type", f"{len(found)} answer texts but {len(starts)} positions")
        pairs: list[tuple[str, Any]] = list(zip(found, starts, strict=True))
    elif isinstance(given, list):
        pairs = [(text(answer, "text"), field(answer, "answer_start")) for answer in given]
    else:
        raise BadRecord("wrong_type", "'answers' is neither a list nor columns")
    if any(not isinstance(start, int) or isinstance(start, bool) for _, start in pairs):
        raise BadRecord("wrong_type", "'answer_start' is not a whole number")
    return pairs


@lru_cache(maxsize=64)  # the questions of one paragraph follow each other
def _cut(title: str, context: str) -> tuple[Paragraph, list[int]]:
    """The paragraph, and the character at which each of its sentences begins."""
    sentences = split_sentences(context)
    return Paragraph(title, sentences), sentence_starts(sentences)
