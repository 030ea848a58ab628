"""Documents cut into the chunks that are scored and kept as wholes.

As in MiniPLM (Gu et al. 2024, arXiv 2410.17215) a chunk has at most so many tokens of the teacher and ends where a
sentence does; the next one begins there. Unlike there a chunk never reaches from one document into the next, so that
it belongs to one set. Places are characters: two models with different tokenizers read the same chunks.

Promises: the chunks of a document put together are the document.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ..datasets.readers.sentences import split_sentences
from ..models.decoding.text import encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..datasets.readers.pile import Document


class Chunk(NamedTuple):
    """Characters `start` to `stop` of document number `document`."""

    document: int
    start: int
    stop: int
    text: str


def cut_documents(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, length: int) -> list[Chunk]:
    """The chunks of all documents in corpus order, each of at most `length` tokens.

    Raises InputError for a text with words that the tokenizer has no token for.
    """
    chunks: list[Chunk] = []
    for number, document in enumerate(documents):
        text = document.text
        if document.n_bytes <= length:  # no text has more tokens than bytes
            chunks.append(Chunk(number, 0, len(text), text))
            continue
        encoded = encode_text(tokenizer, text)
        starts = list(accumulate((start for start, _ in encoded.offsets[encoded.added :]), max))
        chunks += [Chunk(number, a, b, text[a:b]) for a, b in cut(text, starts, length)]
    return chunks


def cut(text: str, starts: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """The (start, stop) of each chunk of `text`. starts: the character that each of its tokens begins at, ascending."""
    begin = 0
    while begin < len(text):
        over = bisect_left(starts, begin) + length  # the first token that is too many
        limit = starts[over] if over < len(starts) else len(text)
        if limit <= begin:  # one character of more than `length` tokens
            behind = bisect_right(starts, begin)
            limit = starts[behind] if behind < len(starts) else len(text)
        end = limit if limit == len(text) else _sentence_end(text, begin, limit)
        yield begin, end
        begin = end


def _sentence_end(text: str, begin: int, limit: int) -> int:
    """Where the last sentence of text[begin:limit] that ends in its second half ends, else the last line, else the
    last word, else `limit`."""
    middle = begin + (limit - begin) // 2
    half = text[middle:limit]
    last = split_sentences(half)[-1:]
    if last and len(last[0]) < len(half):
        return limit - len(last[0])
    for pattern in (r".*\n", r".*\s"):
        if found := re.match(pattern, half, re.DOTALL):
            return middle + found.end()
    return limit
