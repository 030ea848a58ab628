"""Where sets of factual prompts register, and what one has to say about itself.

A set is one file in this folder with one class under the decorator `factual("name")`. Opening, unpacking, counting and
tolerance are the same for all and live in `reading`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from ...errors import UsageError, suggest
from ..registry import BadRecord
from .records import FactualPrompt


class Entry(NamedTuple):
    """A value of a file and where it was found."""

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

    def prompt(self, value: Any) -> FactualPrompt:
        """The prompt of one value; raises BadRecord."""
        raise UsageError(f"{type(self).__name__} defines neither prompts nor prompt")


_SETS: dict[str, FactualSet] = {}
_T = TypeVar("_T", bound=FactualSet)


def factual(name: str) -> Callable[[type[_T]], type[_T]]:
    """Register one instance of the decorated class under `name`."""

    def register(cls: type[_T]) -> type[_T]:
        if name in _SETS and type(_SETS[name]).__module__ != cls.__module__:
            raise UsageError(f"the name {name!r} is taken by {type(_SETS[name]).__module__}")
        cls.name = name
        _SETS[name] = cls()
        return cls

    return register


def _import_all() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def names() -> list[str]:
    """Every registered set, sorted."""
    _import_all()
    return sorted(_SETS)


def get(name: str) -> FactualSet:
    """The set registered under `name`; UsageError with the nearest name otherwise."""
    _import_all()
    if name not in _SETS:
        raise UsageError(f"there is no set of factual prompts {name!r}; {suggest(name, _SETS)}")
    return _SETS[name]
