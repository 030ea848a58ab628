"""How a step's result is shown: which figures and tables, of which columns. Said in the step's own file, as values.

    VIEW = View(
        "What taking channels away costs",
        "Channels are replaced by their means at every token ...",
        (
            MapPart(rows="layer", columns="channel", value="variance", each=("site",), scale="log", label="variance"),
            TablePart((Column("layer"), Column("effect", "effect, nats", low="low", high="high")), sort=("-effect",)),
        ),
    )

A report draws what it is told here and knows no step; a step without a view appears as a table of its first rows.
Rows without a value leave a gap. `only` chooses rows by what their columns hold (one value, or several of them as a
tuple); `each` makes one figure for each combination of values. Nothing is computed: what a view shows is in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ANY = "*"  # of a view's `part`: one after the other every table of the step


@dataclass(frozen=True)
class Beside:
    """Values of other rows of the table, those that agree with the row in the columns `same`: controls, draws."""

    only: Mapping[str, Any]
    same: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column as a table shows it: with its interval, or, with `beside`, as the values that other rows have in it.

    form: plain number or text; signed number; p-value. absent: what stands where there is no value.
    """

    name: str
    title: str = ""  # default: the column's name
    low: str | None = None
    high: str | None = None
    beside: Beside | None = None
    form: Literal["plain", "signed", "p"] = "plain"
    absent: str = "not measured"
    words: Mapping[str, str] = field(default_factory=dict)  # value -> what it is called


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What all parts of a view have: the table they show, the rows of it, and what is said of it."""

    part: str = ""  # name of the step's table; "*": every one
    only: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[str, ...] = ()
    title: str = ""
    explains: str = ""

    def columns_used(self) -> Iterator[str]:
        """Names of the columns it reads."""
        yield from self.only
        yield from self.each


@dataclass(frozen=True)
class TablePart(Shown):
    """Rows as a table. sort: columns, descending with a minus before the name. top: rows to show; None: all."""

    columns: tuple[Column, ...]
    sort: tuple[str, ...] = ()
    top: int | None = 50

    def columns_used(self) -> Iterator[str]:
        """See `Shown`."""
        yield from super().columns_used()
        yield from (name.removeprefix("-") for name in self.sort)
        for column in self.columns:
            yield column.name
            yield from (name for name in (column.low, column.high) if name is not None)
            if column.beside is not None:
                yield from (*column.beside.only, *column.beside.same)


@dataclass(frozen=True)
class MapPart(Shown):
    """A value as a colour for each pair of `rows` and `columns`. scale: signed has its middle at 0."""

    rows: str
    columns: str
    value: str
    label: str = ""  # of the colours; default: the column's name
    scale: Literal["linear", "log", "signed"] = "linear"

    def columns_used(self) -> Iterator[str]:
        """See `Shown`."""
        yield from (*super().columns_used(), self.rows, self.columns, self.value)


@dataclass(frozen=True)
class LinePart(Shown):
    """A line of `y` over the numbers `x`, with its interval; one for each value of `group`.

    path: points are joined in the order of the table's rows, as the way of something, and not in that of `x`.
    """

    x: str
    y: str
    low: str | None = None
    high: str | None = None
    group: str | None = None
    label: str = ""  # of the y axis; default: the column's name
    log_x: bool = False
    path: bool = False

    def columns_used(self) -> Iterator[str]:
        """See `Shown`."""
        optional = (name for name in (self.low, self.high, self.group) if name is not None)
        yield from (*super().columns_used(), self.x, self.y, *optional)


@dataclass(frozen=True)
class BarPart(Shown):
    """A mark with its interval for each of the names `x`, beside each other for each value of `group`."""

    x: str
    y: str
    low: str | None = None
    high: str | None = None
    group: str | None = None
    label: str = ""

    def columns_used(self) -> Iterator[str]:
        """See `Shown`."""
        optional = (name for name in (self.low, self.high, self.group) if name is not None)
        yield from (*super().columns_used(), self.x, self.y, *optional)


ViewPart = TablePart | MapPart | LinePart | BarPart


@dataclass(frozen=True)
class View:
    """What a report shows of a step: a title, what it means and does not mean, and its figures and tables in order."""

    title: str
    explains: str
    parts: tuple[ViewPart, ...]
