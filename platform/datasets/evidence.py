"""How much a question's context holds, and how far its evidence lies from the question.

Words are what white space separates, counted over the context as `Question.context_text` renders it; the question
comes after the context. Everything here is counted, nothing is guessed: what the counts mean is for `category_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .records import Paragraph, Question

_NAIVE_BOUNDARY = re.compile(r"(?<=[.!?])\s+")


class Evidence(NamedTuple):
    """Counts of one question."""

    sentences: int  # real sentences of the context
    naive_sentences: int  # pieces of a plain cut behind every . ! ? with white space after it
    words: int
    supports: int  # sentences that hold evidence
    support_paragraphs: int  # paragraphs they lie in
    distances: tuple[int, ...]  # words between the end of each such sentence and the question


class _ContextCounts(NamedTuple):
    sentences: int
    naive_sentences: int
    words: int
    words_up_to: tuple[tuple[int, ...], ...]  # by paragraph and sentence: words from the start to that sentence's end


def evidence_of(question: Question) -> Evidence:
    """The counts of `question`; distances are in the order of its supporting facts."""
    context = _count(question.context)
    supports = question.supporting_facts
    return Evidence(
        sentences=context.sentences,
        naive_sentences=context.naive_sentences,
        words=context.words,
        supports=len(set(supports)),
        support_paragraphs=len({support.paragraph for support in supports}),
        distances=tuple(context.words - context.words_up_to[s.paragraph][s.sentence] for s in supports),
    )


@lru_cache(maxsize=64)  # the questions of one paragraph follow each other
def _count(context: Sequence[Paragraph]) -> _ContextCounts:
    words, up_to = 0, []
    for paragraph in context:
        ends = []
        for sentence in paragraph.sentences:
            words += len(sentence.split())
            ends.append(words)
        up_to.append(tuple(ends))
    text = " ".join(sentence.strip() for paragraph in context for sentence in paragraph.sentences)
    return _ContextCounts(
        sentences=sum(bool(sentence.strip()) for paragraph in context for sentence in paragraph.sentences),
        naive_sentences=sum(bool(piece) for piece in _NAIVE_BOUNDARY.split(text.strip())),
        words=words,
        words_up_to=tuple(up_to),
    )
