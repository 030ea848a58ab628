"""How much a question's context holds, and how far its evidence lies from the question.

Words are what white space separates, tokens are those of a tokenizer, both counted over the context as
`Question.context_text` renders it; the question comes after the context. Everything here is counted, nothing is
guessed: what the counts mean is for `category_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..records import Paragraph, Question, rendered
from .token_counts import TokenCounter, Tokens

_NAIVE_BOUNDARY = re.compile(r"(?<=[.!?])\s+")


class Evidence(NamedTuple):
    """Counts of one question."""

    sentences: int  # real sentences of the context
    naive_sentences: int  # pieces of a plain cut behind every . ! ? with white space after it
    words: int
    tokens: int
    supports: int  # sentences that hold evidence
    support_paragraphs: int  # paragraphs they lie in
    distances: tuple[int, ...]  # words between the end of each such sentence and the question
    token_distances: tuple[int, ...]  # the same in tokens


class _ContextCounts(NamedTuple):
    sentences: int
    naive_sentences: int
    words: int
    words_up_to: tuple[tuple[int, ...], ...]  # by paragraph and sentence: words from the start to that sentence's end
    ends: tuple[tuple[int, ...], ...]  # by paragraph and sentence: the character of the rendered text behind it


def evidence_of(question: Question, counter: TokenCounter) -> Evidence:
    """The counts of `question`; distances are in the order of its supporting facts."""
    context = _count(question.context)
    tokens = _tokens(counter, question.context)
    supports = question.supporting_facts
    return Evidence(
        sentences=context.sentences,
        naive_sentences=context.naive_sentences,
        words=context.words,
        tokens=len(tokens.starts),
        supports=len(set(supports)),
        support_paragraphs=len({support.paragraph for support in supports}),
        distances=tuple(context.words - context.words_up_to[s.paragraph][s.sentence] for s in supports),
        token_distances=tuple(tokens.behind(context.ends[s.paragraph][s.sentence]) for s in supports),
    )


@lru_cache(maxsize=8)  # the questions of one paragraph follow each other
def _tokens(counter: TokenCounter, context: Sequence[Paragraph]) -> Tokens:
    return counter.tokens(rendered(context))


@lru_cache(maxsize=8)
def _count(context: Sequence[Paragraph]) -> _ContextCounts:
    words, up_to, ends, position = 0, [], [], 0
    for paragraph in context:
        word_ends, character_ends = [], []
        for number, sentence in enumerate(paragraph.sentences):
            words += len(sentence.split())
            position += len(sentence.strip()) + (number > 0)  # the space that `rendered` puts before it
            word_ends.append(words)
            character_ends.append(position)
        position += 1  # the newline
        up_to.append(tuple(word_ends))
        ends.append(tuple(character_ends))
    text = " ".join(sentence.strip() for paragraph in context for sentence in paragraph.sentences)
    return _ContextCounts(
        sentences=sum(bool(sentence.strip()) for paragraph in context for sentence in paragraph.sentences),
        naive_sentences=sum(bool(piece) for piece in _NAIVE_BOUNDARY.split(text.strip())),
        words=words,
        words_up_to=tuple(up_to),
        ends=tuple(ends),
    )
