"""What a planted model is asked: a text of its own words, the word that answers it, and where in it matters what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import UsageError, suggest


@dataclass(frozen=True)
class Prompt:
    """A text with its answer. words: one token each. places: name of a place -> the number of its word."""

    words: tuple[str, ...]
    answer: str
    places: Mapping[str, int]

    @property
    def text(self) -> str:
        """The words, with a space between them."""
        return " ".join(self.words)

    def at(self, place: str) -> int:
        """The position of a place; UsageError with the nearest one where there is none."""
        if place not in self.places:
            raise UsageError(f"a prompt of this task has no place {place!r}; {suggest(place, self.places)}")
        return self.places[place]


@dataclass(frozen=True)
class Pair:
    """Two prompts of equal length with different answers, which differ in the word at `place` alone."""

    clean: Prompt
    corrupted: Prompt
    place: str
