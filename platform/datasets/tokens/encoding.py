"""Texts to token ids, many at a time, as flat arrays: exactly the ids of the `tokenizers` library, nothing added.

Two ways lead to the same ids. `words`: where a tokenizer is byte-level BPE on the words of GPT-2's pattern (GPT-2,
GPT-NeoX, those that `mplat` trains), words are looked up in a table, see `encoding_words.py`. `library`: any other
tokenizer. Which one it is follows from tokenizer.json, never from the tokenizer's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ...core.errors import InputError
from .encoding_merges import merges_of
from .encoding_words import Ids, Offsets, WordEncoder, joined, splits_like_gpt2

CHUNK_BYTES = 1 << 21  # what is encoded at once; the numbers of its words take four times as much


class Encoded(NamedTuple):
    """`ids` of all texts behind each other (n,); text t has ids[offsets[t]:offsets[t+1]]."""

    ids: Ids
    offsets: Offsets


class Encoder:
    """Encodes with a copy of `tokenizer`; what that has set for truncation and padding is left out.

    `way` is "words" or "library". Same texts, same ids, however they are grouped. A worker gets its own by pickling;
    threads must not share one. Holds some 50 MB next to the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = tokenizer.to_str()
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        parts = json.loads(text)
        simple = splits_like_gpt2(parts) and not tokenizer.encode_special_tokens
        merges = merges_of(parts["model"]) if simple else None
        self._words = WordEncoder(self._tokenizer, merges, self._by_library) if merges else None

    def __reduce__(self) -> tuple[Callable[[str, bool], Encoder], tuple[str, bool]]:
        return _rebuilt, (self._tokenizer.to_str(), self._tokenizer.encode_special_tokens)

    @property
    def way(self) -> str:
        """How texts are encoded: "words" or "library"."""
        return "library" if self._words is None else "words"

    def ids(self, texts: Sequence[str]) -> Encoded:
        """The ids of `tokenizer.encode(text, add_special_tokens=False)` for each text.

        Raises InputError for a text that has no UTF-8 (a lone surrogate).
        """
        parts = [self._chunk(chunk, data) for chunk, data in _chunks(texts)]
        return Encoded(*joined(parts))

    def _chunk(self, texts: list[str], data: list[bytes]) -> tuple[Ids, Offsets]:
        if self._words is None:
            return self._by_library(texts)
        bounds = np.cumsum([0, *map(len, data)])
        return self._words.ids(texts, np.frombuffer(b"".join(data), np.uint8), bounds)

    def _by_library(self, texts: list[str]) -> tuple[Ids, Offsets]:
        found = [one.ids for one in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return joined([(np.array(ids, np.uint32), np.array([0, len(ids)])) for ids in found])


def _rebuilt(text: str, encode_special_tokens: bool) -> Encoder:
    """From tokenizer.json and what does not stand in it."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = encode_special_tokens
    return Encoder(tokenizer)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[list[str], list[bytes]]]:
    """Consecutive texts, with their UTF-8, of about `CHUNK_BYTES`; one text at least."""
    chunk: list[str] = []
    data: list[bytes] = []
    size = 0
    for number, text in enumerate(texts):
        try:
            data.append(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {number} of {len(texts)}: half of a surrogate pair at character {error.start}; remove it"
            ) from error
        chunk.append(text)
        size += len(data[-1])
        if size >= CHUNK_BYTES:
            yield chunk, data
            chunk, data, size = [], [], 0
    if chunk:
        yield chunk, data
