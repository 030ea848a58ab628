"""Where data sets register, and what one has to say about itself.

A data set is one file in `readers` with one class under the decorator `dataset("name")`: which values it recognises,
which questions a value holds, and how one of them becomes a `Question`. Opening, unpacking, counting, tolerance and
finding files are the same for all and live in `reading` and `finding`. There is no list of data sets to edit: the
files that carry the decorator are found by looking.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple

from ..core.registry import Registry
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


def first_object(sample: Sequence[Any]) -> Mapping[str, Any]:
    """The first value of a file; empty where that is no object, or there is none."""
    return sample[0] if sample and isinstance(sample[0], Mapping) else {}


class Sample(NamedTuple):
    """A few questions of a data set, written out by hand: as rows of the hub, and as the values of an original file,
    which has this suffix. Without `original` its files hold the rows."""

    rows: list[dict[str, Any]]
    original: list[Any] | None = None
    suffix: str = ".jsonl"

    @property
    def values(self) -> list[Any]:
        """Those of the original file."""
        return self.rows if self.original is None else self.original


class DataSet(ABC):
    """What a data set says about itself. One instance serves the whole process and keeps no state."""

    name: ClassVar[str] = ""  # set by the decorator
    title: ClassVar[str]
    metric: ClassVar[str]  # name under which mplat.scoring.metrics scores an answer
    licence: ClassVar[str]
    categories: ClassVar[tuple[str, ...]]  # those its questions are sorted into
    annotated_supports: ClassVar[bool]  # whether people marked the supporting sentences
    annotated_hops: ClassVar[bool] = False  # whether `Question.hops` comes with the data, such as from decompositions
    hub_copies: ClassVar[tuple[HubCopy, ...]] = ()  # the first is the one that is read
    expects: ClassVar[str]  # the schemas in a few words, for the error about a file that has neither
    path_hint: ClassVar[re.Pattern[str]]  # a path that names this data set, for files too damaged to look into
    special_case_of: ClassVar[tuple[str, ...]] = ()  # data sets that recognise this one's files too, which stay its own
    sample: ClassVar[Sample]  # what its reader is tried on; recognised by no other data set
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

    def asked(self, question_id: str, split: str, question: str, **fields: Any) -> Question:
        """A question of this data set, with its metric and licence; fields: further ones of `Question`."""
        return Question(question_id, self.name, split, question, metric=self.metric, licence=self.licence, **fields)

    @abstractmethod
    def row(self, question: Question) -> dict[str, Any]:
        """`question` as a row of the Hugging Face schema, from which `items` and `question` make an equal one."""

    def row_kind(self, question: Question) -> str:
        """Which of several Hugging Face schemas `row` uses for `question`; "" where there is only one."""
        return ""


DATA_SETS: Registry[DataSet] = Registry("data set", "dataset", __name__, ".readers")
dataset, names, get = DATA_SETS.instance, DATA_SETS.names, DATA_SETS.get
