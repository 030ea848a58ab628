"""Full records of Natural Questions: a page of tokens and what annotators marked in it, in three schemas.

The original has token objects, the simplified one a text with spaces between the tokens, Hugging Face's has columns.
All three give the same page and the same annotations, as spans of words; see `nq_page`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..data_set import BadRecord, Sample
from ..records import Paragraph, Question, Support, source_fields
from .fields import document as document_name
from .fields import field, identifier, objects, optional_text, question_text, text, whole
from .nq_page import MarkedTokens, Page, Token, layout_of, page_of, token_span, tokens_of_text

_YES_NO = {1: "YES", 0: "NO", -1: "NONE"}  # how Hugging Face's schema numbers them
_Annotation = dict[str, Any]  # id, long: words or None, short: list of words, yes_no; words: [first, end)


def parts(record: Mapping[str, Any], kind: str, notes: Counter[str]) -> dict[str, Any]:
    """The fields of the question; raises BadRecord."""
    hugging_face = kind == "Hugging Face"
    name = "id" if hugging_face else "example_id"
    number = field(record, name)
    question_id = str(number) if isinstance(number, int) and not isinstance(number, bool) else identifier(record, name)
    asked = question_text(field(record, "question"), "text") if hugging_face else question_text(record, "question_text")
    document = field(record, "document") if hugging_face else record
    prefix = "" if hugging_face else "document_"
    page = page_of(_tokens(document, kind), optional_text(document, f"{prefix}title"))
    if not page.words:
        raise BadRecord("missing_field", "the document has no words")
    annotations: list[_Annotation] = []
    if record.get("annotations") is None:
        notes["records without annotations, kept without answers"] += 1
    else:
        annotations = [_annotation(annotation, page) for annotation in objects(record, "annotations")]
    found = [answer for annotation in annotations for answer in _answers(annotation, page)]
    return {
        "id": question_id,
        "question": asked,
        "context": page.paragraphs,
        "answers": tuple(dict.fromkeys(found)),
        "answerable": None if not annotations else bool(found or any(a["long"] for a in annotations)),
        "supporting_facts": _evidence(annotations, page),
        "group": page_name(page.paragraphs),
        "source_fields": source_fields(
            form="page", url=optional_text(document, f"{prefix}url"), annotations=annotations
        ),
    }


def page_name(paragraphs: Sequence[Paragraph]) -> str:
    """What the questions on a page have in common."""
    whole_page = "".join(sentence for paragraph in paragraphs for sentence in paragraph.sentences)
    return document_name(paragraphs[0].title, whole_page)


def row(question: Question) -> dict[str, Any]:
    """A row of Hugging Face's natural_questions; what is not known is empty, byte positions -1."""
    source = question.source()
    layout = layout_of(question.context)
    annotations = source.get("annotations", [])
    chosen = sorted({tuple(a["long"]) for a in annotations if a["long"]})
    long_answers = []
    for annotation in annotations:
        start, end = token_span(layout, annotation["long"])
        index = chosen.index(tuple(annotation["long"])) if annotation["long"] else -1
        long_answers.append({"start_token": start, "end_token": end, **_BYTES, "candidate_index": index})
    words = [token.text for token in layout.tokens if not token.is_markup]
    made = {
        "id": [annotation["id"] for annotation in annotations],
        "long_answer": long_answers,
        "short_answers": [
            _span_columns(layout, spans) | {"text": [" ".join(words[first:end]) for first, end in spans]}
            for spans in (annotation["short"] for annotation in annotations)
        ],
        "yes_no_answer": [
            next(number for number, name in _YES_NO.items() if name == annotation["yes_no"])
            for annotation in annotations
        ],
    }
    return {
        "id": question.id,
        "document": {
            "title": question.context[0].title,
            "url": source.get("url", ""),
            "html": "",
            "tokens": {
                "token": [token.text for token in layout.tokens],
                "is_html": [token.is_markup for token in layout.tokens],
                **_unknown_bytes(len(layout.tokens)),
            },
        },
        "question": {"text": question.question, "tokens": question.question.split()},
        "long_answer_candidates": _span_columns(layout, chosen) | {"top_level": [True] * len(chosen)},
        "annotations": made if annotations else None,
    }


def _span_columns(layout: MarkedTokens, spans: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    tokens = [token_span(layout, span) for span in spans]
    return {
        "start_token": [start for start, _ in tokens],
        "end_token": [end for _, end in tokens],
        **_unknown_bytes(len(spans)),
    }


def _unknown_bytes(count: int) -> dict[str, list[int]]:
    return {name: [value] * count for name, value in _BYTES.items()}


def _tokens(document: Mapping[str, Any], kind: str) -> list[Token]:
    if kind == "simplified":
        return tokens_of_text(text(document, "document_text"))
    names = ("token", "is_html") if kind == "Hugging Face" else ("token", "html_token")
    tokens = objects(document, "tokens" if kind == "Hugging Face" else "document_tokens")
    try:
        made = [Token(token[names[0]], token[names[1]]) for token in tokens]
    except KeyError as error:
        raise BadRecord("missing_field", f"a token has no {error}") from error
    if not all(isinstance(token.text, str) and isinstance(token.is_markup, bool) for token in made):
        raise BadRecord("wrong_type", f"a token is not a text with {names[1]!r}")
    return made


def _annotation(annotation: Mapping[str, Any], page: Page) -> _Annotation:
    short = annotation.get("short_answers")
    given = objects(annotation, "short_answers") if short else []
    yes_no = annotation.get("yes_no_answer", "NONE")
    yes_no = _YES_NO.get(yes_no, "") if isinstance(yes_no, int) else yes_no
    if yes_no not in _YES_NO.values():
        raise BadRecord("wrong_type", "'yes_no_answer' is not YES, NO or NONE")
    number = annotation.get("annotation_id", annotation.get("id", ""))
    return {
        "id": "" if number is None else str(number),
        "long": _words(field(annotation, "long_answer"), page),
        "short": [span for answer in given if (span := _words(answer, page))],
        "yes_no": yes_no,
    }


def _words(span: Any, page: Page) -> list[int] | None:
    """The words of a token span, None where it is empty or marks nothing (-1)."""
    first, end = whole(span, "start_token"), whole(span, "end_token")
    if first < 0:
        return None
    if not first <= end < len(page.words_before):
        raise BadRecord("answer_not_in_context", f"tokens {first} to {end} are not in the document")
    words = [page.words_before[first], page.words_before[end]]
    return words if words[0] < words[1] else None


def _answers(annotation: _Annotation, page: Page) -> list[str]:
    """Yes or no, and the spans; an annotator may have given both."""
    given = [] if annotation["yes_no"] == "NONE" else [annotation["yes_no"].lower()]
    spans = ", ".join(page.text(*span) for span in annotation["short"])
    return [*given, spans] if spans else given


def _evidence(annotations: list[_Annotation], page: Page) -> tuple[Support, ...]:
    """The sentences of the short answers or, where there is none, those of the long ones."""
    short = [span for annotation in annotations for span in annotation["short"]]
    long = [annotation["long"] for annotation in annotations if annotation["long"]]
    found: set[Support] = set()
    for first, end in {tuple(span) for span in short or long}:
        found |= page.supports(first, end)
    return tuple(sorted(found))


_TOKENS = (
    "Rome - Wikipedia <H1> Rome </H1> <P> Rome is old . It has 3 dogs . </P> "
    "<Table> <Tr> <Th> Cats </Th> <Td> 2 </Td> </Tr> </Table>"
).split()
_MARKUP = [token.startswith("<") for token in _TOKENS]
_BYTES = {"start_byte": -1, "end_byte": -1}
_SHORT = {"start_token": 13, "end_token": 15, **_BYTES}
_LONG = {"start_token": 6, "end_token": 17, **_BYTES}
_CANDIDATE = {**_LONG, "top_level": True}
_LONGS = [_LONG | {"candidate_index": 0}, {"start_token": -1, "end_token": -1, **_BYTES, "candidate_index": -1}]
#: one question of three annotators: spans, nothing, and yes
SAMPLE = Sample(
    rows=[{
        "id": "-17", "question": {"text": "how many dogs has rome", "tokens": []},
        "document": {
            "title": "Rome", "url": "https://example.org/Rome", "html": "<html>",
            "tokens": {
                "token": _TOKENS, "is_html": _MARKUP, "start_byte": [0] * len(_TOKENS), "end_byte": [1] * len(_TOKENS)
            },
        },
        "long_answer_candidates": {key: [value] for key, value in _CANDIDATE.items()},
        "annotations": {
            "id": ["1", "2", "3"], "long_answer": [_LONGS[0], _LONGS[1], _LONGS[0]],
            "short_answers": [
                {**{key: [value] for key, value in _SHORT.items()}, "text": ["3 dogs"]},
                *[{**{key: [] for key in _SHORT}, "text": []}] * 2,
            ],
            "yes_no_answer": [-1, -1, 1],
        },
    }],
    original=[{
        "example_id": -17, "question_text": "how many dogs has rome",
        "question_tokens": ["how", "many", "dogs", "has", "rome"],
        "document_title": "Rome", "document_url": "https://example.org/Rome", "document_html": "<html>",
        "document_tokens": [
            {"token": token, "html_token": markup, "start_byte": 0, "end_byte": 1}
            for token, markup in zip(_TOKENS, _MARKUP, strict=True)
        ],
        "long_answer_candidates": [_CANDIDATE],
        "annotations": [
            {"annotation_id": 1, "long_answer": _LONGS[0], "short_answers": [_SHORT], "yes_no_answer": "NONE"},
            {"annotation_id": 2, "long_answer": _LONGS[1], "short_answers": [], "yes_no_answer": "NONE"},
            {"annotation_id": 3, "long_answer": _LONGS[0], "short_answers": [], "yes_no_answer": "YES"},
        ],
    }],
    suffix=".json",
)  # fmt: skip
