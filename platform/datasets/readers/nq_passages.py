"""Two forms of Natural Questions in which the answers are texts and the context is given with them.

Gold-paragraph files (nq-open-oracle and its kind) have passages, of which one or several are marked as gold; long
documents (LEval) are a whole page as one text with several questions. Sentences in which an answer occurs, in the
gold passages where some are marked, are the evidence. Questions on one article (of the first gold passage, else of the
first one) or on one long document are a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..data_set import BadRecord
from ..reading import content_id
from ..records import Paragraph, Question, source_fields
from .fields import answers, document, objects, question_text, text, texts
from .nq_page import layout_of, page_of, tokens_of_text
from .occurrences import occurrences
from .sentences import split_sentences


def gold_paragraph(record: Mapping[str, Any], data_set: str) -> dict[str, Any]:
    """The fields of the question; it has no id of its own and gets one from its question and passages."""
    question, accepted = question_text(record, "question"), answers(texts(record, "answers"))
    passages = objects(record, "ctxs")
    context = tuple(Paragraph(text(p, "title"), split_sentences(text(p, "text"))) for p in passages)
    if not any(sentence.strip() for paragraph in context for sentence in paragraph.sentences):
        raise BadRecord("missing_field", "'ctxs' has no text")
    gold = [number for number, passage in enumerate(passages) if passage.get("isgold") is True]
    return {
        "id": content_id(data_set, question, *(text(passage, "text") for passage in passages)),
        "question": question,
        "context": context,
        "answers": accepted,
        "supporting_facts": tuple(
            support for support in occurrences(context, accepted) if not gold or support.paragraph in gold
        ),
        "source_fields": source_fields(form="gold", gold=gold),
        "group": _article(context[gold[0] if gold else 0]),
    }


def _article(passage: Paragraph) -> str:
    return passage.title or document("", "".join(passage.sentences))


def gold_row(question: Question) -> dict[str, Any]:
    """question, answers and ctxs{title, text, hasanswer, isgold}."""
    gold = question.source().get("gold", [])
    holds = {support.paragraph for support in occurrences(question.context, question.answers)}
    return {
        "question": question.question,
        "answers": list(question.answers),
        "ctxs": [
            {
                "title": paragraph.title,
                "text": "".join(paragraph.sentences),
                "hasanswer": number in holds,
                "isgold": number in gold,
            }
            for number, paragraph in enumerate(question.context)
        ],
    }


def long_document(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The fields of question `number` of a long document, without an id: two documents may share a question."""
    asked = question_text({"question": texts(record, "instructions")[number]}, "question")
    accepted = answers((texts(record, "outputs")[number],))
    context = _page(text(record, "input"))
    if not context:
        raise BadRecord("missing_field", "'input' is blank")
    return {
        "id": "",
        "question": asked,
        "context": context,
        "answers": accepted,
        "supporting_facts": occurrences(context, accepted),
        "source_fields": source_fields(form="long"),
        "group": document(context[0].title, "".join(s for paragraph in context for s in paragraph.sentences)),
    }


def long_row(question: Question) -> dict[str, Any]:
    """A document with this one question."""
    tokens = layout_of(question.context).tokens
    return {
        "instructions": [question.question],
        "outputs": list(question.answers),
        "input": " ".join(token.text for token in tokens),
        "source": "natural_question",
        "evaluation": "f1",
    }


@lru_cache(maxsize=2)  # the questions of one document follow each other
def _page(document: str) -> tuple[Paragraph, ...]:
    return page_of(tokens_of_text(document)).paragraphs
