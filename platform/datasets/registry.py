"""Where data sets register, and what one has to say about itself.

A data set is one file in this folder with one class under the decorator `dataset("name")`: which values it recognises,
which questions a value holds, and how one of them becomes a `Question`. Opening, unpacking, counting, tolerance and
finding files are the same for all and live in `reading` and `finding`. There is no list of data sets to edit: the
files that carry the decorator are found by looking.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..errors import UsageError, suggest
from .records import Question


class BadRecord(ValueError):
    """One record that cannot be used; counted under `reason`, never a reason to stop by itself."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class LookAlike(ValueError):
    """A file in the schema of this data set that is another data set; the message is a sentence for the user."""


class HubCopy(NamedTuple):
    """A copy on the Hugging Face hub, pinned: `revision` is a commit, so that it cannot change under a result."""

    repository: str
    configuration: str
    revision: str


class DataSet(ABC):
    """What a data set says about itself. One instance serves the whole process and keeps no state."""

    name: ClassVar[str] = ""  # set by the decorator
    title: ClassVar[str]
    metric: ClassVar[str]  # name under which mplat.eval.metrics scores an answer
    licence: ClassVar[str]
    categories: ClassVar[tuple[str, ...]]  # those its questions are sorted into
    annotated_supports: ClassVar[bool]  # whether people marked the supporting sentences
    annotated_hops: ClassVar[bool] = False  # whether `Question.hops` comes with the data, such as from decompositions
    hub_copies: ClassVar[tuple[HubCopy, ...]] = ()  # the first is the one that is read
    expects: ClassVar[str]  # the schemas in a few words, for the error about a file that has neither
    path_hint: ClassVar[re.Pattern[str]]  # a path that names this data set, for files too damaged to look into
    remarks: ClassVar[Mapping[str, str]] = {}  # what a reason for bad records probably means here

    @abstractmethod
    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """The name of the schema if `sample`, the first values of the file `path`, are this data set's, else None.

        `path` may only settle what the content leaves open. Raises LookAlike for a close relative.
        """

    def items(self, value: Any) -> Iterator[Any]:
        """The questions of one value of a file, in a form of the data set's own; a BadRecord instance for a bad one.

        By default a value is a question.
        """
        yield value

    @abstractmethod
    def question(self, item: Any, split: str, notes: Counter[str]) -> Question:
        """One item as a Question; raises BadRecord. What was left out of a good record is counted in `notes`.

        The id may stay empty where the record has none: `reading` then makes one.
        """

    @abstractmethod
    def row(self, question: Question) -> dict[str, Any]:
        """`question` as a row of the Hugging Face schema, from which `items` and `question` make an equal one."""

    def row_kind(self, question: Question) -> str:
        """Which of several Hugging Face schemas `row` uses for `question`; "" where there is only one."""
        return ""


_DATA_SETS: dict[str, DataSet] = {}
_T = TypeVar("_T", bound=DataSet)
_DECORATED = re.compile(r"^@dataset\(", re.MULTILINE)


def dataset(name: str) -> Callable[[type[_T]], type[_T]]:
    """Register one instance of the decorated class under `name`."""

    def register(cls: type[_T]) -> type[_T]:
        if name in _DATA_SETS and type(_DATA_SETS[name]).__module__ != cls.__module__:
            raise UsageError(f"the data set name {name!r} is taken by {type(_DATA_SETS[name]).__module__}")
        cls.name = name
        _DATA_SETS[name] = cls()
        return cls

    return register


def _import_all() -> None:
    """Import the files beside this one that carry the decorator, and no others: listing names stays cheap."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        spec = find_spec(f"{package}.{module.name}")
        source = spec.loader.get_source(spec.name) if spec and hasattr(spec.loader, "get_source") else None  # type: ignore[union-attr]
        if source and _DECORATED.search(source):
            importlib.import_module(f"{package}.{module.name}")


def names() -> list[str]:
    """Every registered data set, sorted."""
    _import_all()
    return sorted(_DATA_SETS)


def get(name: str) -> DataSet:
    """The data set registered under `name`; UsageError with the nearest name otherwise."""
    if name not in _DATA_SETS:
        _import_all()
    if name not in _DATA_SETS:
        raise UsageError(f"there is no data set {name!r}; {suggest(name, _DATA_SETS)}")
    return _DATA_SETS[name]
