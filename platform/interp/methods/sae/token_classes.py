"""Classes of tokens that have many members, by which absorption and splitting of features are measured.

The facts world's words: first and second syllables of persons and of places, adjectives and nouns. Its names are two
tokens, each a syllable, so that such a class is to its syllables what a first letter is to the words that begin with it
in the benchmark's task. Of other texts: first letters of the tokens that begin a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ....datasets.facts.names import ADJECTIVES, NOUNS, PERSON_FIRST, PERSON_SECOND, PLACE_FIRST, PLACE_SECOND

ClassesOf = Literal["facts_world", "first_letter"]

_WORDS: dict[str, tuple[tuple[str, ...], bool]] = {  # words, and whether they stand behind a space
    "person, first syllable": (PERSON_FIRST, True),
    "person, second syllable": (PERSON_SECOND, False),
    "place, first syllable": (PLACE_FIRST, True),
    "place, second syllable": (PLACE_SECOND, False),
    "adjective": (ADJECTIVES, True),
    "noun": (NOUNS, True),
}


def token_classes(texts: Sequence[str | None], classes: ClassesOf) -> list[str | None]:
    """The class of each token, None for none."""
    known: dict[str | None, str | None] = {None: None}
    for text in dict.fromkeys(texts):
        if text is not None:
            known[text] = _letter(text) if classes == "first_letter" else _WORD_CLASS.get(text)
    return [known[text] for text in texts]


def _letter(text: str) -> str | None:
    word = text[1:]
    return f"begins with {word[0].lower()}" if text[:1] == " " and word[:1].isalpha() and word[0].isascii() else None


_WORD_CLASS = {
    (" " if spaced else "") + word: name for name, (words, spaced) in _WORDS.items() for word in words
}  # fmt: skip
