"""Which documents are held out: those with the smallest hashes, so that neither order nor files nor a seed matter.

A document is a candidate where its hash, as a fraction of 2^64, is below a share; of the candidates of every set those
with the smallest hashes are held out until they have enough tokens. Copies of a text have its hash and share its fate
within a set. More data of a set adds candidates below the bound, so it only ever returns documents to training.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .token_corpus import Documents


def held_out(documents: Documents, share: float, most_tokens: int) -> NDArray[np.bool_]:
    """(n,) whether each document is held out. share: of all texts, in (0, 1); most_tokens: of every set, after which no
    more are taken, so that the last one may go beyond. A text of no bytes or no tokens of its own is never held out."""
    assert 0 < share < 1
    chosen = np.zeros(len(documents.hash), dtype=bool)
    low = documents.hash < np.uint64(int(share * 2**64))
    candidates = np.flatnonzero(low & (documents.bytes > 0) & (documents.tokens > 1))
    for number in range(len(documents.sets)):
        mine = candidates[documents.set[candidates] == number]
        mine = mine[np.argsort(documents.hash[mine], kind="stable")]
        hashes, tokens = documents.hash[mine], documents.tokens[mine]
        first = np.ones(len(mine), dtype=bool)
        first[1:] = hashes[1:] != hashes[:-1]
        before = np.cumsum(tokens * first) - tokens  # of smaller hashes; copies count once
        chosen[mine[before < most_tokens]] = True
    return chosen
