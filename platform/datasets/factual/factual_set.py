"""Where sets of factual prompts register, and what one has to say about itself.

A set is one file in this folder with one class under the decorator `factual("name")`. Opening, unpacking, counting and
tolerance are the same for all and live in `reading`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from ...core.errors import UsageError
from ...core.registry import Registry
from ..data_set import BadRecord
from .records import FactualPrompt


class Entry(NamedTuple):
    """An object of a file and where it was found."""

    where: str
    value: Any


class Unusable(NamedTuple):
    """Why there is no prompt, and where."""

    where: str
    bad: BadRecord


class FactualSet(ABC):
    """What a set says about itself. One instance serves the whole process and keeps no state."""

    name: ClassVar[str] = ""  # set by the decorator
    title: ClassVar[str]
    licence: ClassVar[str]
    expects: ClassVar[str]  # the schemas in a few words, for the error about a file that has none of them
    sample: ClassVar[Sequence[Any]]  # values of a file, at least one of them a prompt; recognised by no other set
    tolerated: ClassVar[frozenset[str]] = frozenset()  # reasons that are no damage, however many records they concern

    @abstractmethod
    def recognise(self, value: Any) -> bool:
        """Whether a file whose first value is `value` belongs to this set."""

    def prompts(self, entries: Sequence[Entry]) -> Iterator[FactualPrompt | Unusable]:
        """The prompts of all values of all files, in their order; a set whose files belong together overrides this."""
        for where, value in entries:
            try:
                yield self.prompt(value)
            except BadRecord as bad:
                yield Unusable(where, bad)

    def fact(
        self, fact_id: str, prompt: tuple[str, tuple[int, int]], subject: str, answer: str, **more: Any
    ) -> FactualPrompt:
        """A prompt of this set. prompt: the text and where the subject stands in it, as `filled` gives them; more:
        further fields. Raises BadRecord."""
        return FactualPrompt(fact_id, self.name, prompt[0], subject, prompt[1], answer, licence=self.licence, **more)

    def prompt(self, value: Any) -> FactualPrompt:
        """The prompt of one value; raises BadRecord."""
        raise UsageError(f"{type(self).__name__} defines neither prompts nor prompt")


SETS: Registry[FactualSet] = Registry("set of factual prompts", "factual", __name__)
factual, names, get = SETS.instance, SETS.names, SETS.get
