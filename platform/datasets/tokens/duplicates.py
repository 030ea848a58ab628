"""Near-duplicates: how much of a document stands in another one.

The measure is the containment of A. Broder (On the resemblance and containment of documents, SEQUENCES 1997): the
share of a document's distinct shingles that one other document holds, the largest over all others. One other
document, and not all others together, because a licence or a question's form that thousands share is no copy of
anything; containment, and not the Jaccard similarity of deduplication (0.8 in K. Lee et al., ACL 2022), because a
text quoted whole inside a longer one is a copy too. Shingles have 13 tokens unless said otherwise, as many words as
GPT-3 was decontaminated by (T. Brown et al. 2020, appendix C), where a single one in common was enough.

Of a long document only the shingles with the smallest hashes are looked for, a random sample of them (Broder, too):
the share is then an estimate with a standard error of at most 1 / (2 sqrt(512)) = 0.022. That bounds memory, and the
time of the one pass over all tokens, which is spent on looks into a table that should stay in a cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import shingles
from .token_corpus import Corpus

SKETCH = 512  # shingles looked for of one document
_SLOTS_PER_KEY, _BITS_PER_KEY = 2, 8  # at least
_BLOCK = 1 << 16  # documents scanned by one call, between which a signal is heard


class Near(NamedTuple):
    """For each document asked about: the largest share of its shingles that one other document holds, and which that
    is (-1: none). A document of fewer tokens than a shingle has none, and its share is 0."""

    share: NDArray[np.float64]
    document: NDArray[np.int64]


def nearest(
    corpus: Corpus, asked: NDArray[np.int64], others: NDArray[np.int64], n: int, layout: tuple[int, int]
) -> Near:
    """The containment of documents `asked` in documents `others` (numbers, ascending), by shingles of n tokens.

    layout: how many tokens open and close every document, which no shingle holds.
    """
    before, after = layout
    owners, keys = [], []
    for i, number in enumerate(asked):
        tokens = corpus.document(number)
        text = np.ascontiguousarray(tokens[before : len(tokens) - after], dtype=np.uint32)
        found = np.empty(max(0, len(text) - n + 1), dtype=np.uint64)
        if len(found):
            shingles.hashes(text, n, found)
        found = np.unique(found)[:SKETCH]
        keys.append(found)
        owners.append(np.full(len(found), i, dtype=np.int32))
    key, owner = np.concatenate([np.empty(0, np.uint64), *keys]), np.concatenate([np.empty(0, np.int32), *owners])
    total = np.bincount(owner, minlength=len(asked))
    best, where = np.zeros(len(asked), dtype=np.int64), np.full(len(asked), -1, dtype=np.int64)
    if len(key):
        _scan(corpus, others, n, layout, key, owner, best, where)
    return Near(best / np.maximum(total, 1), where)


def _scan(
    corpus: Corpus,
    others: NDArray[np.int64],
    n: int,
    layout: tuple[int, int],
    key: NDArray[np.uint64],
    owner: NDArray[np.int32],
    best: NDArray[np.int64],
    where: NDArray[np.int64],
) -> None:
    order = np.argsort(key, kind="stable")
    keys, first = np.unique(key[order], return_index=True)
    postings = (np.append(first, len(key)), owner[order])
    slots = np.full(1 << (_SLOTS_PER_KEY * len(keys)).bit_length(), -1, dtype=np.int32)
    bits = np.zeros(1 << max(1, (_BITS_PER_KEY * len(keys)).bit_length() - 6), dtype=np.uint64)
    table = (keys, slots, bits, *shingles.fill(keys, slots, bits))
    count, touched = np.zeros(len(best), dtype=np.int64), np.zeros(len(best), dtype=np.int64)
    position = np.empty(0, dtype=np.int64)
    marked = np.full(len(key), -1, dtype=np.int64)
    number = 0  # of the document in `others`
    for f, folder in enumerate(corpus.folders):
        mine = others[corpus.folder[others] == f]
        starts = corpus.documents.offset[mine] + layout[0]
        ends = corpus.documents.offset[mine] + corpus.documents.tokens[mine] - layout[1]
        position = np.concatenate([position, mine])
        tokens = folder.tokens.view(np.ndarray)
        for block in range(0, len(mine), _BLOCK):
            part = slice(block, block + _BLOCK)
            counting = (marked, count, touched, best, where)
            shingles.scan(tokens, starts[part], ends[part], number + block, n, table, postings, counting)
        number += len(mine)
    where[where >= 0] = position[where[where >= 0]]
