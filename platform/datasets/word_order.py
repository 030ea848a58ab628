"""Texts whose words stand in random order: the words of real text and their frequencies, without its order."""

from __future__ import annotations

import re
from random import Random

_WORD = re.compile(r"\S+")


def shuffled_words(text: str, seed: int) -> str:
    """The same words in random order; white space stays where it is."""
    words = _WORD.findall(text)
    Random(seed).shuffle(words)
    return _WORD.sub(lambda _: words.pop(), text)
