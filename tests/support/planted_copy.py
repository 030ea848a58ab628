"""The planted model `planted-copy-mamba` with two of its prompts; not a test file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mplat.models import LanguageModel
from mplat.models.planted import find_planted
from mplat.models.planted.tasks.copy import ANSWERS, FILLERS, NAMES, RELAY
from mplat.models.planted.tasks.copy import prompt as asked
from torch import Tensor

__all__ = ["ANSWERS", "FILLERS", "NAMES", "RELAY", "WORDS", "PlantedCopy", "planted_copy", "prompt"]
_PLANTED = find_planted("planted-copy-mamba")
WORDS = _PLANTED.words


@dataclass(frozen=True)
class PlantedCopy:
    """model: float64. coordinates: per layer the planted (channel, coordinate)s.

    clean, corrupted (T): prompts whose names differ in every sign. name_at, relay_at: positions; "?" is the last.
    """

    model: LanguageModel
    clean: Tensor
    corrupted: Tensor
    coordinates: tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]
    name_at: int
    relay_at: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The clean prompt's words."""
        return tuple(WORDS[int(i)] for i in self.clean)


def prompt(name: str, before: int = 2, between: int = 2, behind: int = 3) -> Tensor:
    """Tokens (T) with that many filler words before the name, between it and the relay, and behind the relay."""
    fillers = [FILLERS[i % len(FILLERS)] for i in range(before + between + behind)]
    return torch.tensor([WORDS.index(word) for word in asked(NAMES.index(name), fillers, before, between).words])


def planted_copy() -> PlantedCopy:
    """The model with the prompts of "anna" and "boris"."""
    first, second = (_PLANTED.truth.part(f"{memory}.state").cells for memory in ("first", "second"))
    return PlantedCopy(_PLANTED.grow(torch.float64), prompt("anna"), prompt("boris"), (first, second), 2, 5)
