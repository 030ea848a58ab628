"""The merges of byte-level BPE on one word at a time: of the pairs that stand side by side, the one of the lowest rank
becomes one token, the leftmost of several, until no pair is a merge.

Importing this file imports numba.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from ...core.compiled_loops import compiled
from .encoding_loops import LONGEST

NO_RANK = np.iinfo(np.int64).max


class Merges(NamedTuple):
    """`byte_ids` (256): the token of a byte. `pairs` (a power of two, 3), an open-addressing hash table: left token
    << 32 | right token, or -1 for none; rank; the token that both become."""

    byte_ids: NDArray[np.int64]
    pairs: NDArray[np.int64]


def byte_characters() -> NDArray[np.uint32]:
    """(256) The code points that stand for bytes in a byte-level vocabulary, 0 for bytes that are in no text."""
    leads = chain(range(0x800), range(0x800, 0xD800, 0x40), range(0xE000, 0x110000, 0x1000))
    text = "".join(map(chr, leads))
    ((characters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    found = np.zeros(256, np.uint32)
    found[np.frombuffer(text.encode(), np.uint8)] = [ord(character) for character in characters]
    return found


def merges_of(model: dict[str, Any]) -> Merges | None:
    """Of the model of a tokenizer.json; None unless it is BPE in which the merges alone decide: no dropout, no affixes,
    no words that are tokens without merges, and a token for every byte, so that nothing is unknown."""
    exceptions = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model.get("type") != "BPE" or any(model.get(key) for key in exceptions):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    characters = byte_characters()
    byte_ids = np.array([vocabulary.get(chr(c), -1) for c in characters], np.int64)
    if (byte_ids[characters > 0] < 0).any():
        return None
    ranked = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    rows = [(vocabulary[a] << 32 | vocabulary[b], rank, vocabulary[a + b]) for (a, b), rank in ranked.items()]
    pairs = np.full((1 << (2 * len(rows) + 1).bit_length(), 3), -1, np.int64)
    enter(pairs, np.array(rows, np.int64).reshape(-1, 3))
    return Merges(byte_ids, pairs)


@compiled
def slot_of(pairs, key):
    """Where a pair is in the table, or would be."""
    mask = pairs.shape[0] - 1
    slot = np.int64(np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask
    while pairs[slot, 0] >= 0 and pairs[slot, 0] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def enter(pairs, rows):
    """Enters rows of a pair, its rank and its token."""
    for i in range(rows.shape[0]):
        slot = slot_of(pairs, rows[i, 0])
        for j in range(3):
            pairs[slot, j] = rows[i, j]


@compiled
def merge(pairs, left, right):
    """(rank, token) of a pair; `NO_RANK` if it is no merge."""
    slot = slot_of(pairs, left << 32 | right)
    if pairs[slot, 0] < 0:
        return NO_RANK, np.int64(-1)
    return pairs[slot, 1], pairs[slot, 2]


@compiled
def merge_words(keys, begins, first, last, byte_ids, pairs, ids, id_ends):
    """Token ids of the words keys[begins[w]:begins[w+1]], first <= w < last, each of 1 to `LONGEST` bytes, into `ids`
    from id_ends[first] on; where those of w end into id_ends[w+1]."""
    tokens = np.empty(LONGEST + 1, np.int64)
    ranks, merged = np.empty_like(tokens), np.empty_like(tokens)  # of the pair of tokens i and i + 1
    at = id_ends[first]
    for w in range(first, last):
        n = begins[w + 1] - begins[w]
        for i in range(n):
            tokens[i] = byte_ids[keys[begins[w] + i]]
        for i in range(n - 1):
            ranks[i], merged[i] = merge(pairs, tokens[i], tokens[i + 1])
        while n > 1:
            best = 0
            for i in range(1, n - 1):
                if ranks[i] < ranks[best]:
                    best = i
            if ranks[best] == NO_RANK:
                break
            tokens[best] = merged[best]
            n -= 1
            for i in range(best + 1, n):
                tokens[i], ranks[i], merged[i] = tokens[i + 1], ranks[i + 1], merged[i + 1]
            if best > 0:
                ranks[best - 1], merged[best - 1] = merge(pairs, tokens[best - 1], tokens[best])
            if best < n - 1:
                ranks[best], merged[best] = merge(pairs, tokens[best], tokens[best + 1])
        for i in range(n):
            ids[at + i] = tokens[i]
        at += n
        id_ends[w + 1] = at
