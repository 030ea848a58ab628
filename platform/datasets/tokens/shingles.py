"""Compiled loops over token shingles: n tokens in a row, told apart by a rolling hash of 64 bits.

The hash of tokens t is sum of t[i] * BASE^(n-1-i) modulo 2^64 (R. M. Karp and M. O. Rabin, IBM J. Res. Dev. 31, 1987).
Equal hashes of different shingles are as rare as 64 bits make them, and one of them moves a share by one shingle.
"""

from __future__ import annotations

import numpy as np

from ...core.compiled_loops import compiled

BASE = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd: the upper bits of a product depend on all bits
_AT_ONCE = 512  # shingles between two looks at what passed the filter
_ONE, _ZERO = np.uint64(1), np.uint64(0)
_IN_WORD, _SECOND, _THIRD = np.uint64(63), np.uint64(6), np.uint64(12)


@compiled
def _marks(mixed):
    """Three bits of a word. All of one word, a Bloom filter costs one look into memory a shingle."""
    return (
        (_ONE << (mixed & _IN_WORD))
        | (_ONE << ((mixed >> _SECOND) & _IN_WORD))
        | (_ONE << ((mixed >> _THIRD) & _IN_WORD))
    )


@compiled
def hashes(tokens, n, out):
    """The hash of each of the len(tokens) - n + 1 shingles into `out`."""
    power = _ONE
    for _ in range(n):
        power *= BASE
    h = _ZERO
    for i in range(len(tokens)):
        h = h * BASE + np.uint64(tokens[i])
        if i >= n:
            h -= np.uint64(tokens[i - n]) * power
        if i >= n - 1:
            out[i - n + 1] = h


@compiled
def fill(keys, slots, bits):
    """Put keys (K,), all different, into a table: slots (2^a,), -1 or a key's number, and bits (2^b,), a filter;
    a, b > 0. Returns by how much a spread hash is shifted to find its place in either."""
    shift, narrow, last = np.uint64(64), np.uint64(64), np.uint64(len(slots) - 1)
    while (_ONE << (np.uint64(64) - shift)) < np.uint64(len(slots)):
        shift -= _ONE
    while (_ONE << (np.uint64(64) - narrow)) < np.uint64(len(bits)):
        narrow -= _ONE
    for k in range(len(keys)):
        mixed = keys[k] * _SPREAD
        bits[mixed >> narrow] |= _marks(mixed)
        place = mixed >> shift
        while slots[place] >= 0:
            place = (place + _ONE) & last
        slots[place] = k
    return shift, narrow


@compiled
def scan(tokens, starts, ends, number, n, table, postings, counting):
    """Look for the table's shingles in documents tokens[starts[d]:ends[d]], which are called number + d.

    table: keys, slots, bits, shift, narrow as `fill` left them. postings: first (K+1,) and owners: the documents that
    hold key k are owners[first[k]:first[k+1]]. counting: marked (len(owners),), by the last document that had it; count
    and touched (owners,) zeros; best and where (owners,): the most shingles of an owner in one document, and which.
    """
    keys, slots, bits, shift, narrow = table
    first, owners = postings
    marked, count, touched, best, where = counting
    last = np.uint64(len(slots) - 1)
    power = _ONE
    for _ in range(n):
        power *= BASE
    passed = np.empty(_AT_ONCE, np.uint64)
    for d in range(len(starts)):
        start, end = starts[d], ends[d]
        if end - start < n:
            continue
        h, leaving, n_touched = _ZERO, _ZERO, 0
        for i in range(start, start + n - 1):
            h = h * BASE + np.uint64(tokens[i])
        for block in range(start + n - 1, end, _AT_ONCE):
            n_passed = 0
            for i in range(block, min(block + _AT_ONCE, end)):  # no branch, so that looks into memory overlap
                h = h * BASE + np.uint64(tokens[i]) - leaving * power
                leaving = np.uint64(tokens[i - n + 1])
                mixed = h * _SPREAD
                wanted = _marks(mixed)
                passed[n_passed] = h
                n_passed += bits[mixed >> narrow] & wanted == wanted
            for p in range(n_passed):
                place = (passed[p] * _SPREAD) >> shift
                while slots[place] >= 0 and keys[slots[place]] != passed[p]:
                    place = (place + _ONE) & last
                k = slots[place]
                if k < 0 or marked[first[k]] == number + d:  # a shingle that comes twice in a document counts once
                    continue
                for j in range(first[k], first[k + 1]):
                    marked[j] = number + d
                    owner = owners[j]
                    if count[owner] == 0:
                        touched[n_touched] = owner
                        n_touched += 1
                    count[owner] += 1
        for t in range(n_touched):
            owner = touched[t]
            if count[owner] > best[owner]:
                best[owner] = count[owner]
                where[owner] = number + d
            count[owner] = 0
