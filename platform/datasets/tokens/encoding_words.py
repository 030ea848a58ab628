"""Byte-level BPE of many texts by looking words up: a word is merged once and found again after that.

The table is bounded (`WORDS`, `KEY_BYTES`) and emptied when it is full, so that what it holds follows the text. What is
rare and hard goes to the library as a whole text: added tokens with rules of their own (single word, stripped blanks),
characters that NFC may change, words of more than `LONGEST` bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .encoding_characters import Characters
from .encoding_loops import (
    BY_LIBRARY,
    CLASS_UNKNOWN,
    NONE,
    TABLE_FULL,
    Table,
    Trie,
    number_words,
    write_ids,
)
from .encoding_merges import Merges, merge_words

WORDS = 500_000
KEY_BYTES = 1 << 23
Ids = NDArray[np.uint32]
Offsets = NDArray[np.int64]
_NO_IDS = np.empty(0, np.uint32)


def splits_like_gpt2(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer.json cuts texts into the words of GPT-2's pattern, and does nothing else around its model."""
    words, normalizer = (tokenizer.get(key) or {} for key in ("pre_tokenizer", "normalizer"))
    return (
        words.get("type") == "ByteLevel"
        and not words.get("add_prefix_space", True)
        and words.get("use_regex", True)
        and normalizer.get("type", "NFC") == "NFC"
        and _keeps_ids(tokenizer.get("post_processor"))
    )


def _keeps_ids(processor: dict[str, Any] | None) -> bool:
    """Whether a post-processor leaves the ids of one text as they are when no special tokens are asked for."""
    if processor is None or processor["type"] in ("ByteLevel", "BertProcessing", "RobertaProcessing"):
        return True
    if processor["type"] == "Sequence":
        return all(map(_keeps_ids, processor["processors"]))
    texts = [part["Sequence"]["id"] for part in processor.get("single", ()) if "Sequence" in part]
    return processor["type"] == "TemplateProcessing" and texts == ["A"]


def _trie(added: Iterable[tuple[str, int]]) -> Trie:
    """Of (text, number in the table or `BY_LIBRARY`)."""
    children, words = [np.zeros(256, np.int32)], [NONE]
    for text, word in added:
        node = 0
        for byte in text.encode():
            if not children[node][byte]:
                children[node][byte] = len(children)
                children.append(np.zeros(256, np.int32))
                words.append(NONE)
            node = int(children[node][byte])
        # two that are the same once normalized: the library knows which of them it takes
        words[node] = word if words[node] == NONE else BY_LIBRARY
    return Trie(np.stack(children), np.array(words, np.int32))


class WordEncoder:
    """Encodes with `tokenizer`, for which `splits_like_gpt2` holds, whose model is `merges`, and which must not change.

    `library` is asked for the ids of whole texts; `words` and `key_bytes` bound the table.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        merges: Merges,
        library: Callable[[list[str]], tuple[Ids, Offsets]],
        *,
        words: int = WORDS,
        key_bytes: int = KEY_BYTES,
    ) -> None:
        self._library = library
        self._characters = Characters(nfc=tokenizer.normalizer is not None)
        self._merges = merges

        added = sorted(tokenizer.get_added_tokens_decoder().items())
        self._added = np.array([token_id for token_id, _ in added], np.uint32)
        raw, normalized = [], []
        for word, (_, token) in enumerate(added):
            own_rules = token.single_word or token.lstrip or token.rstrip
            looked_for = raw
            content = token.content
            if token.normalized:
                looked_for = normalized
                content = tokenizer.normalizer.normalize_str(content) if tokenizer.normalizer else content
            looked_for.append((content, BY_LIBRARY if own_rules else word))
        self._raw, self._normalized = _trie(raw), _trie(normalized)

        words += len(added)
        self._table = Table(
            np.zeros((1 << (2 * words - 1).bit_length(), 2), np.uint64),
            np.zeros(words + 1, np.int64),
            np.empty(key_bytes, np.uint8),
            np.zeros(1, np.int64),
        )
        self._id_ends = np.zeros(words + 1, np.int64)
        self._empty()

    def ids(self, texts: list[str], data: NDArray[np.uint8], bounds: Offsets) -> tuple[Ids, Offsets]:
        """Ids of all texts behind each other, and where each begins and the last ends (texts + 1).

        Text t is data[bounds[t]:bounds[t+1]] in UTF-8. Deterministic; not for several threads at once.
        """
        words, counts = np.empty(data.size, np.int32), np.empty(len(texts), np.int64)
        parts: list[tuple[Ids, Offsets]] = []
        first, emptied_for = 0, -1
        while first < len(texts):
            stopped, why, where = number_words(
                data, bounds, first, self._characters.classes, self._raw, self._normalized, self._table, words, counts
            )
            if stopped > first:
                size = int(bounds[stopped] - bounds[first])
                parts.append(self._written(texts[first:stopped], size, words, counts[first:stopped]))
            if why == CLASS_UNKNOWN:
                self._characters.learn(_code_point(data, where))
            elif why == TABLE_FULL and emptied_for == stopped:  # its words alone are too many
                parts.append(self._library(texts[stopped : stopped + 1]))
                stopped += 1
            elif why == TABLE_FULL:
                self._empty()
                emptied_for = stopped
            first = stopped
        return joined(parts)

    def _written(self, texts: list[str], size: int, words: NDArray[np.int32], counts: Offsets) -> tuple[Ids, Offsets]:
        """The ids of `texts`, which have `size` bytes, from the numbers of their words."""
        self._learn()
        ends = np.cumsum(counts)
        places = np.flatnonzero(words[: ends[-1]] == BY_LIBRARY)
        asked = [texts[t] for t in np.searchsorted(ends, places, side="right")]
        by_library = self._library(asked)
        offsets = np.zeros(len(texts) + 1, np.int64)
        ids = np.empty(size + by_library[0].size, np.uint32)  # no word has more tokens than bytes
        write_ids(words, counts, self._ids, self._id_ends, *by_library, ids, offsets[1:])
        return ids[: offsets[-1]], offsets

    def _learn(self) -> None:
        """Merges the words that were entered since the last time."""
        first, last = self._learned, int(self._table.filled[0])
        keys, begins = self._table.keys, self._table.begins
        size = self._id_ends[first] + begins[last] - begins[first]  # no word has more tokens than bytes
        if size > self._ids.size:
            self._ids = np.resize(self._ids, 2 * size)
        merge_words(keys, begins, first, last, *self._merges, self._ids, self._id_ends)
        self._learned = last

    def _empty(self) -> None:
        """Leaves the added tokens in the table, and no words."""
        added = self._added.size
        self._table.slots.fill(0)
        self._table.begins[: added + 1] = 0
        self._table.filled[0] = self._learned = added
        self._ids = self._added
        self._id_ends[: added + 1] = np.arange(added + 1)


def joined(parts: list[tuple[Ids, Offsets]]) -> tuple[Ids, Offsets]:
    """Texts after each other, of parts in the same form."""
    begins = np.cumsum([0, *(ids.size for ids, _ in parts)])
    offsets = [begins[:1], *(begin + own[1:] for begin, (_, own) in zip(begins, parts, strict=False))]
    return np.concatenate([_NO_IDS, *(ids for ids, _ in parts)]), np.concatenate(offsets)


def _code_point(data: NDArray[np.uint8], at: int) -> int:
    """The character that begins at data[at]."""
    return ord(data[at : at + 4].tobytes().decode(errors="ignore")[0])
