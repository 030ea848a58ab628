"""SQuAD v1.1: a Wikipedia paragraph, a question, and the spans that people marked as its answer.

Reads the original nesting (data > paragraphs > qas) and Hugging Face's flat rows. The paragraph is cut into real
sentences; the sentence in which an answer lies is the evidence. SQuAD v2 is another data set (its unanswerable
questions would be scored wrongly) and is recognised and refused.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePath
from typing import Any, NamedTuple

from .fields import answers, field, identifier, items_of, question_text, text, texts
from .records import Paragraph, Question, Support
from .registry import BadRecord, DataSet, LookAlike, dataset
from .sentences import split_sentences

_V2_PATH = re.compile(r"squad[-_ ]?v?2", re.IGNORECASE)
_V2_SENTENCE = "has SQuAD v2 records ({}), which are not SQuAD v1.1; v2 questions may have no answer"
_V2_SHARE = 0.2  # of looked-at flat records without an answer: v1.1 has none, v2 a third to a half


class _Item(NamedTuple):
    record: Mapping[str, Any]
    title: str
    context: str


@dataset("squad")
class Squad(DataSet):
    """SQuAD v1.1 in the original and in the Hugging Face schema."""

    title = "SQuAD v1.1"
    metric = "squad_v1"
    licence = "CC BY-SA 4.0"
    categories = ("simple_recall", "long_context", "stress_test")
    annotated_supports = False
    expects = "data > paragraphs > qas, or rows of id, context, question, answers{text, answer_start}"
    path_hint = re.compile(r"squad(?![-_ ]?v?2)", re.IGNORECASE)
    remarks = {"no_answer": "an empty answer list is how SQuAD v2 marks unanswerable questions, and v2 is not v1.1"}

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the nesting or the columns; `path` only tells a v2 file whose first records are all answerable."""
        first = sample[0] if sample else None
        if not isinstance(first, Mapping):
            return None
        nested = _first_paragraph(first)
        if nested is not None:
            qas = nested.get("qas")
            qas = [qa for qa in qas if isinstance(qa, Mapping)] if isinstance(qas, list) else []
            if str(first.get("version", "")).lower().startswith(("v2", "2")):
                raise LookAlike(_V2_SENTENCE.format(f"version {first['version']!r}"))
            if any("is_impossible" in qa for qa in qas):
                raise LookAlike(_V2_SENTENCE.format("is_impossible"))
            schema = "original"
        elif _holds_nothing(first):
            if str(first["version"]).lower().startswith(("v2", "2")):
                raise LookAlike(_V2_SENTENCE.format(f"version {first['version']!r}"))
            schema = "original"
        elif _is_flat(first):
            rows = [row for row in sample if isinstance(row, Mapping)]
            empty = sum(_is_unanswerable(row) for row in rows)
            if any("is_impossible" in row for row in rows):
                raise LookAlike(_V2_SENTENCE.format("is_impossible"))
            if empty > _V2_SHARE * len(rows):
                raise LookAlike(_V2_SENTENCE.format(f"{empty} of the first {len(rows)} have no answer"))
            schema = "Hugging Face"
        else:
            return None
        if _V2_PATH.search(path.as_posix()):
            raise LookAlike("lies under a name of SQuAD v2, which is not SQuAD v1.1")
        return schema

    def items(self, value: Any) -> Iterator[_Item | BadRecord]:
        """One item for each question of a document, an article or a flat row."""
        if not isinstance(value, Mapping):
            yield BadRecord("wrong_type", "a record is not an object")
        elif "data" in value:
            yield from _each(value, "data", self.items)
        elif "paragraphs" in value:
            title = value.get("title")
            for paragraph in _each(value, "paragraphs", lambda p: iter((p,))):
                yield from _questions(paragraph, title if isinstance(title, str) else "")
        else:
            try:
                title = value.get("title")
                yield _Item(value, title if isinstance(title, str) else "", text(value, "context"))
            except BadRecord as bad:
                yield bad

    def question(self, item: _Item, split: str, notes: Counter[str]) -> Question:
        """The question with its paragraph cut into sentences and the sentences of its answers as evidence."""
        record = item.record
        question_id, question = identifier(record, "id"), question_text(record, "question")
        if not item.context.strip():
            raise BadRecord("missing_field", "'context' is blank")
        spans = _answer_spans(record)
        accepted = answers(tuple(answer for answer, _ in spans))
        paragraph, starts = _cut(item.title, item.context)
        evidence: set[int] = set()
        for answer, start in spans:
            if not item.context.startswith(answer, start) or start < 0:
                raise BadRecord("answer_not_in_context", f"{answer[:40]!r} is not at character {start} of the context")
            last = start + max(len(answer.rstrip()) - 1, 0)
            evidence.update(range(bisect_right(starts, start) - 1, bisect_right(starts, last)))
        return Question(
            id=question_id,
            dataset=self.name,
            split=split,
            question=question,
            context=(paragraph,),
            answers=accepted,
            metric=self.metric,
            supporting_facts=tuple(Support(0, sentence) for sentence in sorted(evidence)),
            licence=self.licence,
        )


def _first_paragraph(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first paragraph object if `document` nests as SQuAD does, be it a file or one article."""
    articles = document.get("data", [document])
    for article in articles if isinstance(articles, list) else ():
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        for paragraph in paragraphs if isinstance(paragraphs, list) else ():
            if isinstance(paragraph, Mapping) and "context" in paragraph:
                return paragraph
    return None


def _holds_nothing(document: Mapping[str, Any]) -> bool:
    """Whether this is a file of the original form without one paragraph."""
    articles = document.get("data")
    return (
        "version" in document
        and isinstance(articles, list)
        and all(isinstance(article, Mapping) and article.get("paragraphs") == [] for article in articles)
    )


def _is_flat(row: Mapping[str, Any]) -> bool:
    spans = row.get("answers")
    return "context" in row and "question" in row and isinstance(spans, Mapping) and "answer_start" in spans


def _is_unanswerable(row: Mapping[str, Any]) -> bool:
    spans = row.get("answers")
    return isinstance(spans, Mapping) and spans.get("text") == []


def _each(record: Mapping[str, Any], name: str, expand: Any) -> Iterator[Any]:
    try:
        elements = items_of(record, name)
    except BadRecord as bad:
        yield bad
        return
    for element in elements:
        yield from expand(element)


def _questions(paragraph: Any, title: str) -> Iterator[_Item | BadRecord]:
    if isinstance(paragraph, BadRecord):
        yield paragraph
        return
    try:
        context, qas = text(paragraph, "context"), items_of(paragraph, "qas")
    except BadRecord as bad:
        yield bad
        return
    yield from (_Item(qa, title, context) for qa in qas)


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
def _cut(title: str, context: str) -> tuple[Paragraph, tuple[int, ...]]:
    """The paragraph, and the character at which each of its sentences begins."""
    sentences = split_sentences(context)
    return Paragraph(title, sentences), (0, *accumulate(len(sentence) for sentence in sentences[:-1]))
