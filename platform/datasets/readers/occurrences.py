"""Where in a context a text occurs: the sentences that hold an answer, for data sets in which nobody marked them.

An occurrence is the words of the text one after the other, as whole words, whatever the case and the white space
between them. It says where the answer can be read, not that it can be concluded from there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

from ..records import Paragraph, Support


def occurrences(context: Sequence[Paragraph], texts: Iterable[str]) -> tuple[Support, ...]:
    """Every sentence of `context` in which one of `texts` occurs, or begins, goes on or ends; in their order."""
    found: set[tuple[int, int]] = set()
    patterns = [pattern for text in dict.fromkeys(texts) if (pattern := _pattern(text)) is not None]
    for number, paragraph in enumerate(context):
        whole = "".join(paragraph.sentences)
        starts = sentence_starts(paragraph.sentences)
        for pattern in patterns:
            for match in pattern.finditer(whole):
                found.update((number, sentence) for sentence in sentences_of(starts, match.start(), match.end()))
    return tuple(Support(paragraph, sentence) for paragraph, sentence in sorted(found))


def sentence_starts(sentences: Sequence[str]) -> list[int]:
    """The character at which each sentence begins in all of them, one after the other."""
    return [0, *accumulate(len(sentence) for sentence in sentences[:-1])] if sentences else []


def sentences_of(starts: Sequence[int], first: int, end: int) -> range:
    """The sentences that the characters from `first` to `end` (exclusive) lie in."""
    return range(max(bisect_right(starts, first) - 1, 0), bisect_right(starts, max(end - 1, first)))


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str] | None:
    words = text.split()
    if not words:
        return None
    body = r"\s+".join(re.escape(word) for word in words)
    return re.compile(rf"(?<!\w){body}(?!\w)", re.IGNORECASE)
