"""A page of Natural Questions: from tokens with markup to paragraphs of sentences, and from token spans to both.

Words are the tokens that are no markup, numbered through the page; they are what annotations are kept in, because
they are the same before and after a conversion. A paragraph is what stands between two marks of a block (paragraph,
heading, table row, list item); cells of a row stay together.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from ..records import Paragraph, Support
from .occurrences import sentence_starts, sentences_of
from .sentences import split_sentences

_BLOCK = re.compile(r"</?(?:p|h[1-6]|table|tr|ul|ol|li|dl|dd|dt)(?:[\s_>])", re.IGNORECASE)
_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:_[^>]*)?/?>")
_TITLE = re.compile(r"(.+) - wikipedia", re.IGNORECASE)


class Token(NamedTuple):
    """A token and whether it is markup."""

    text: str
    is_markup: bool


@dataclass(frozen=True)
class Page:
    """The paragraphs of a page. words_before[i]: how many words stand before token i, one entry more than tokens."""

    paragraphs: tuple[Paragraph, ...]
    words: tuple[str, ...]
    words_before: tuple[int, ...]

    def text(self, first: int, end: int) -> str:
        """The words from `first` to `end` (exclusive)."""
        return " ".join(self.words[first:end])

    def supports(self, first: int, end: int) -> set[Support]:
        """The sentences that the words from `first` to `end` (exclusive) lie in."""
        found: set[Support] = set()
        paragraph_starts = self._paragraph_starts
        word = first
        while word < end:
            number = bisect_right(paragraph_starts, word) - 1
            start = paragraph_starts[number]
            last = min(end, paragraph_starts[number + 1]) if number + 1 < len(paragraph_starts) else end
            begins = [0, *accumulate(len(w) + 1 for w in self.words[start:last])]
            starts = sentence_starts(self.paragraphs[number].sentences)
            inside = sentences_of(starts, begins[word - start], begins[last - start] - 1)
            found.update(Support(number, sentence) for sentence in inside)
            word = last
        return found

    @cached_property
    def _paragraph_starts(self) -> list[int]:
        """The first word of each paragraph."""
        sizes = (len("".join(paragraph.sentences).split(" ")) for paragraph in self.paragraphs)
        return [0, *accumulate(sizes)][:-1]


def page_of(tokens: Iterable[Token], title: str = "") -> Page:
    """The page that `tokens` make; without a title it is taken from "... - Wikipedia" in the first paragraph."""
    blocks: list[list[str]] = [[]]
    words: list[str] = []
    before = [0]
    for token in tokens:
        if not token.is_markup:
            pieces = [piece for piece in token.text.split(" ") if piece]
            words += pieces
            blocks[-1] += pieces
        elif _BLOCK.match(token.text) and blocks[-1]:
            blocks.append([])
        before.append(len(words))
    texts = [" ".join(block) for block in blocks if block]
    if not title and texts and (match := _TITLE.fullmatch(texts[0])):
        title = match[1]
    return Page(tuple(Paragraph(title, split_sentences(text)) for text in texts), tuple(words), tuple(before))


def tokens_of_text(text: str) -> list[Token]:
    """The tokens of a page that is one text with spaces between them, as in the simplified files.

    Two spaces make an empty token, because annotations count it.
    """
    return [Token(piece, _MARKUP.fullmatch(piece) is not None) for piece in text.split(" ")]


class MarkedTokens(NamedTuple):
    """Paragraphs as tokens again, each in marks of its own, and where the words are among them."""

    tokens: list[Token]
    word_at: list[int]  # token of each word


def layout_of(paragraphs: Sequence[Paragraph]) -> MarkedTokens:
    """The inverse of `page_of`, up to which marks stand between the paragraphs."""
    tokens: list[Token] = []
    word_at: list[int] = []
    for paragraph in paragraphs:
        tokens.append(Token("<P>", True))
        for word in "".join(paragraph.sentences).split(" "):
            word_at.append(len(tokens))
            tokens.append(Token(word, False))
        tokens.append(Token("</P>", True))
    return MarkedTokens(tokens, word_at)


def token_span(layout: MarkedTokens, span: Sequence[Any] | None) -> tuple[int, int]:
    """Tokens of a span of words; (-1, -1) for none, as the data set writes it."""
    if not span:
        return -1, -1
    return layout.word_at[span[0]], layout.word_at[span[1] - 1] + 1
