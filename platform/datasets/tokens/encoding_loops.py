"""The loops behind `encoding_words.py`: UTF-8 bytes to words, and words to their numbers in a hash table.

A word is what the pattern of GPT-2's pre-tokenizer matches:

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

All texts of a chunk stand one after the other in `data` (bytes), text t in data[bounds[t]:bounds[t+1]], valid UTF-8.
Which class a code point has stands in `classes`, see `encoding_characters.py`. Importing this file imports numba.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...core.compiled_loops import compiled

LETTER, NUMBER, SPACE, OTHER, UNKNOWN, FOREIGN = range(6)
#: stands for all words of a text that the library has to encode
BY_LIBRARY = -1
#: why `number_words` stopped
DONE, TABLE_FULL, CLASS_UNKNOWN = range(3)
LONGEST = 1024  # bytes; a text with a longer word goes to the library, so that one word cannot fill the table
LENGTH_BITS = 11


class Table(NamedTuple):
    """Words by number: word w is keys[begins[w]:begins[w+1]].

    `slots` (a power of two, 2) hold `code_of` a word, and its number and length as number << LENGTH_BITS | length, 0
    for none: a word of up to eight bytes is found by one line of memory. `filled` (1) is the number of words. Those of
    added tokens come first, have no bytes and are in no slot.
    """

    slots: np.ndarray  # uint64
    begins: np.ndarray  # (words + 1) int64
    keys: np.ndarray  # uint8
    filled: np.ndarray  # int64


class Trie(NamedTuple):
    """Added tokens by their bytes: children[node, byte], 0 for none; `words` (nodes): the token's number in the table,
    `NONE` where no token ends, `BY_LIBRARY` where its text goes to the library."""

    children: np.ndarray  # (nodes, 256) int32
    words: np.ndarray  # (nodes) int32


NONE = -2


@compiled
def class_at(data, at, classes):
    """(class, where the next character begins) of the character that begins at data[at]."""
    first = np.int64(data[at])
    if first < 0x80:
        return classes[first], at + 1
    second = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return classes[(first & 0x1F) << 6 | second], at + 2
    third = np.int64(data[at + 2]) & 0x3F
    if first < 0xF0:
        return classes[(first & 0x0F) << 12 | second << 6 | third], at + 3
    fourth = np.int64(data[at + 3]) & 0x3F
    return classes[(first & 0x07) << 18 | second << 12 | third << 6 | fourth], at + 4


@compiled
def contraction(data, at, end):
    """Bytes of 's, 't, 're, 've, 'm, 'll or 'd at data[at], 0 for none of them."""
    if at + 1 >= end or data[at] != 0x27:
        return 0
    first = data[at + 1]
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:  # s t m d
        return 2
    if at + 2 >= end:
        return 0
    second = data[at + 2]
    if second == 0x65 and (first == 0x72 or first == 0x76):  # re ve
        return 3
    return 3 if first == 0x6C and second == 0x6C else 0


@compiled
def word_end(data, at, end, classes):
    """Where the word that begins at data[at] ends, at most at `end`; -1 - i if the character at data[i] is in the way,
    which is of no class or of one that is not known yet."""
    short = contraction(data, at, end)
    if short > 0:
        return at + short
    begin = at + 1 if data[at] == 0x20 and at + 1 < end else at
    kind, after = class_at(data, begin, classes)
    last = begin
    if kind == SPACE and begin > at:  # a blank before white space is white space like the rest
        last, begin = begin, at
    while kind < UNKNOWN and after < end:
        next_kind, next_after = class_at(data, after, classes)
        if next_kind >= UNKNOWN:
            return -1 - after
        if next_kind != kind:
            # \s+(?!\S): before a word the last white space is left to it
            return last if kind == SPACE and last > begin else after
        last, after = after, next_after
    return -1 - begin if kind >= UNKNOWN else after


@compiled
def find_added(data, at, end, trie):
    """The first added token in data[at:end], the longest of those that begin there: (where, end, number), or
    (end, end, NONE)."""
    if trie.words.size > 1:
        for begin in range(at, end):
            node, i = trie.children[0, data[begin]], begin + 1
            word, after = NONE, begin
            while node != 0:
                if trie.words[node] != NONE:
                    word, after = trie.words[node], i
                if i == end:
                    break
                node = trie.children[node, data[i]]
                i += 1
            if word != NONE:
                return begin, after, word
    return end, end, NONE


@compiled
def code_of(data, at, end):
    """Eight bytes that stand for data[at:end]: the bytes themselves if they are not more, else a hash (FNV-1a on)."""
    code = np.uint64(0)
    for i in range(at, min(end, at + 8)):
        code = code << np.uint64(8) | np.uint64(data[i])
    for i in range(at + 8, end):
        code = (code ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    return code


@compiled
def same(a, i, b, j, length):
    """Whether a[i:i+length] is b[j:j+length]."""
    for k in range(length):
        if a[i + k] != b[j + k]:
            return False
    return True


@compiled
def number_piece(data, at, end, classes, slots, begins, keys, filled, words, count):
    """Writes the numbers of the words in data[at:end], in which no added token is, from words[count] on. New words are
    entered into the table, whose arrays come one by one: taking them out of a tuple costs more than looking up a word.

    Returns (the count from now on, why it stopped, where): `DONE`, `BY_LIBRARY`, `TABLE_FULL` or `CLASS_UNKNOWN`.
    """
    mask = slots.shape[0] - 1
    while at < end:
        after = word_end(data, at, end, classes)
        if after < 0:
            kind, _ = class_at(data, -1 - after, classes)
            return count, CLASS_UNKNOWN if kind == UNKNOWN else BY_LIBRARY, -1 - after
        length = after - at
        if length > LONGEST:
            return count, BY_LIBRARY, at
        code = code_of(data, at, after)
        # Fibonacci hashing: the upper bits depend on all
        slot = np.int64(code * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask
        word = np.int64(-1)
        while slots[slot, 1] != 0:
            held = np.int64(slots[slot, 1])
            if slots[slot, 0] == code and held & ((1 << LENGTH_BITS) - 1) == length:
                word = held >> LENGTH_BITS
                if length <= 8 or same(keys, begins[word], data, at, length):
                    break
                word = np.int64(-1)
            slot = (slot + 1) & mask
        if word < 0:
            word = filled[0]
            key = begins[word]
            if word + 1 == begins.size or key + length > keys.size:
                return count, TABLE_FULL, at
            keys[key : key + length] = data[at:after]
            slots[slot, 0], slots[slot, 1] = code, np.uint64(word << LENGTH_BITS | length)
            begins[word + 1] = key + length
            filled[0] = word + 1
        words[count] = word
        count += 1
        at = after
    return count, DONE, at


@compiled
def number_text(data, at, end, classes, raw, normalized, table, words, count):
    """`number_piece` for a whole text: added tokens cut it, first those that are looked for in the text as it is."""
    while at < end:
        cut, after_cut, cut_word = find_added(data, at, end, raw)
        while at < cut:
            stop, after, word = find_added(data, at, cut, normalized)
            count, why, where = number_piece(
                data, at, stop, classes, table.slots, table.begins, table.keys, table.filled, words, count
            )
            if why != DONE:
                return count, why, where
            if word == BY_LIBRARY:
                return count, BY_LIBRARY, stop
            if word != NONE:
                words[count] = word
                count += 1
            at = after
        if cut_word == BY_LIBRARY:
            return count, BY_LIBRARY, cut
        if cut_word != NONE:
            words[count] = cut_word
            count += 1
        at = after_cut
    return count, DONE, at


@compiled
def number_words(data, bounds, first, classes, raw, normalized, table, words, counts):
    """Writes the numbers of the words of texts first, first + 1, ... into words (data.size) and how many a text has
    into counts[t]; `BY_LIBRARY` alone for a text that the library has to encode.

    Returns (the first text that is not done, why, where): `DONE` after the last, `TABLE_FULL`, or `CLASS_UNKNOWN` of
    the character at data[where].
    """
    done = 0
    for t in range(first, bounds.size - 1):
        end, why, where = number_text(data, bounds[t], bounds[t + 1], classes, raw, normalized, table, words, done)
        if why == BY_LIBRARY:
            words[done] = BY_LIBRARY
            end = done + 1
        elif why != DONE:
            return t, why, where
        counts[t] = end - done
        done = end
    return bounds.size - 1, DONE, 0


@compiled
def write_ids(words, counts, ids, id_ends, by_library, library_ends, out, ends):
    """Token ids of all words into `out`, and where those of each text end into `ends`.

    Word w has ids[id_ends[w]:id_ends[w+1]]; the k-th `BY_LIBRARY` by_library[library_ends[k]:library_ends[k+1]].
    """
    at, done, k = 0, 0, 0
    for t in range(counts.size):
        for i in range(at, at + counts[t]):
            word = words[i]
            if word == BY_LIBRARY:
                source, first, last = by_library, library_ends[k], library_ends[k + 1]
                k += 1
            else:
                source, first, last = ids, id_ends[word], id_ends[word + 1]
            for j in range(first, last):
                out[done + j - first] = source[j]
            done += last - first
        at += counts[t]
        ends[t] = done
