"""A byte n-gram model with modified Kneser-Ney smoothing, in numpy: what a language model of text has to beat.

Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3: interpolated
back-off with three discounts an order; orders below the highest count in how many contexts an n-gram was seen. The
unigrams are interpolated with all 256 bytes alike, so that no byte is impossible. A document begins with a symbol of
its own, which is a context and never predicted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

START, BITS = 256, 9  # seven symbols of nine bits fit into a word of 64
LEAST_DISCOUNT = 0.1
Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]


def symbols(texts: Iterable[bytes], order: int) -> NDArray[np.uint16]:
    """All documents in a row, each behind order - 1 symbols that say where it starts."""
    lead = np.full(order - 1, START, np.uint16)
    return np.concatenate([part for text in texts for part in (lead, np.frombuffer(text, np.uint8).astype(np.uint16))])


def grams(stream: NDArray[np.uint16], order: int, longest: int) -> tuple[Keys, Keys]:
    """The n-gram of length `order` that ends at each byte of the text, packed, and the one symbol before it."""
    at = np.flatnonzero(stream != START)
    at = at[at >= longest - 1]
    keys = np.zeros(len(at), np.uint64)
    for back in range(order - 1, -1, -1):
        keys = (keys << np.uint64(BITS)) | stream[at - back].astype(np.uint64)
    before = stream[at - order].astype(np.uint64) if order < longest else np.zeros(len(at), np.uint64)
    return keys, before


class Order:
    """The counts of one order: n-grams, and of each context its sum and what is held back for other n-grams."""

    def __init__(self, keys: Keys, counts: NDArray[np.int64]) -> None:
        self.keys, self.counts = keys, counts
        ones, twos, threes, fours = (max(int((counts == n).sum()), 1) for n in (1, 2, 3, 4))
        y = ones / (ones + 2 * twos)
        self.discount = np.array([0.0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
        # of a short text they may come out as 0, which would leave nothing for what it does not say
        self.discount[1:] = np.clip(self.discount[1:], LEAST_DISCOUNT, [1.0, 2.0, 3.0])
        contexts, where = np.unique(keys >> np.uint64(BITS), return_inverse=True)
        self.contexts, self.totals = contexts, np.bincount(where, counts)
        self.held_back = np.bincount(where, self.discount[np.minimum(counts, 3)])

    def probability(self, keys: Keys, lower: Floats) -> Floats:
        """Of the last byte of each n-gram given those before, where `lower` is what the order below says."""
        counts = _looked_up(self.keys, self.counts, keys)
        context = keys >> np.uint64(BITS)
        totals = _looked_up(self.contexts, self.totals, context)
        held_back = _looked_up(self.contexts, self.held_back, context)
        known = totals > 0
        own = np.maximum(counts - self.discount[np.minimum(counts, 3).astype(np.int64)], 0.0) + held_back * lower
        return np.where(known, own / np.where(known, totals, 1.0), lower)


def _looked_up(keys: Keys, values: NDArray[np.int64] | Floats, wanted: Keys) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)


class ByteNgram:
    """Trained on texts; `order` is the length of the longest n-gram, at most seven bytes."""

    def __init__(self, texts: Iterable[bytes], order: int) -> None:
        assert 1 <= order <= 64 // BITS
        self.order = order
        stream = symbols(texts, order)
        self.orders: list[Order] = []
        for n in range(1, order + 1):
            keys, before = grams(stream, n, order)
            if n < order:  # in how many contexts: each pair of symbol before and n-gram once
                keys = np.unique((before << np.uint64(BITS * n)) | keys) & np.uint64((1 << BITS * n) - 1)
            self.orders.append(Order(*np.unique(keys, return_counts=True)))

    def nats(self, texts: Iterable[bytes]) -> float:
        """The negative log-likelihood of all bytes of the texts."""
        return float(-np.log(self.probabilities(texts)).sum())

    def probabilities(self, texts: Iterable[bytes]) -> Floats:
        """Of each byte of the texts, in order."""
        stream = symbols(texts, self.order)
        found = np.full(int((stream != START).sum()), 1 / 256)
        for n, counts in enumerate(self.orders, start=1):
            found = counts.probability(grams(stream, n, self.order)[0], found)
        return found
