"""How a step's result is shown: which figures and tables, of which columns. Said in the step's own file, as values.

    VIEW = View(
        "What taking channels away costs",
        "Channels are replaced by their means at every token ...",
        (
            MapPart(rows="layer", columns="channel", value="variance", each=("site",), title="Variance of {site}"),
            TablePart(columns=(Column("layer"), Column("effect", low="low", high="high")), sort=("-effect",)),
        ),
    )

A report draws what is said here and knows no step; a step without a view appears as the first rows of its tables.
Nothing is computed: what a view shows is in the tables, and a row without a value leaves a gap. Numbers stand in
ascending order, texts in that of `words`, else of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

EVERY = "*"  # as the name of a part: every table of the step, one after the other


@dataclass(frozen=True)
class Beside:
    """Other rows of the table, such as controls: those of `only` that agree with a row in the columns `same`."""

    only: Mapping[str, Any]
    same: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column in a table: with its interval, or, with `beside`, what other rows hold in it.

    title: default the column's name. form: as it is, a number with its sign, or a p-value. absent: for no value.
    """

    name: str
    title: str = ""
    low: str | None = None
    high: str | None = None
    beside: Beside | None = None
    form: Literal["plain", "signed", "p"] = "plain"
    absent: str | None = None

    def columns(self) -> Iterator[str]:
        """Names of the columns it reads."""
        yield from (name for name in (self.name, self.low, self.high) if name is not None)
        if self.beside is not None:
            yield from (*self.beside.only, *self.beside.same)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What figures and tables have in common.

    part: the step's table that is shown. only: its rows, by what columns hold: one value, or several as a tuple.
    each: a figure or table for every combination of values of these columns, the first `most` of them. title: may name
    columns of `each` in braces. words: what values are called; several joined by + are called by their parts.
    """

    part: str = ""
    only: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[str, ...] = ()
    most: int = 12
    title: str = ""
    explains: str = ""
    words: Mapping[Any, str] = field(default_factory=dict)

    def columns_read(self) -> Iterator[str]:
        """Names of the columns it reads."""
        yield from (*self.only, *self.each)


@dataclass(frozen=True, kw_only=True)
class TablePart(Shown):
    """Rows. sort: columns, descending with a minus before the name. top: as many rows at most. folded: behind a
    title, for rows that are looked up.
    """

    columns: tuple[Column, ...]
    sort: tuple[str, ...] = ()
    top: int = 100
    folded: bool = False

    def columns_read(self) -> Iterator[str]:
        """See `Shown`."""
        yield from super().columns_read()
        yield from (name.removeprefix("-") for name in self.sort)
        for column in self.columns:
            yield from column.columns()


@dataclass(frozen=True, kw_only=True)
class MapPart(Shown):
    """A colour for each pair of values of `rows` and `columns`. label: of the colours. scale: signed is around 0."""

    rows: str
    columns: str
    value: str
    label: str = ""
    scale: Literal["linear", "log", "signed"] = "linear"

    def columns_read(self) -> Iterator[str]:
        """See `Shown`."""
        yield from (*super().columns_read(), self.rows, self.columns, self.value)


@dataclass(frozen=True, kw_only=True)
class _Curve(Shown):
    x: str
    y: str
    low: str | None = None
    high: str | None = None
    group: str | None = None
    x_label: str = ""
    label: str = ""
    log_y: bool = False

    def columns_read(self) -> Iterator[str]:
        """See `Shown`."""
        yield from (*super().columns_read(), self.x, self.y)
        yield from (name for name in (self.low, self.high, self.group) if name is not None)


@dataclass(frozen=True, kw_only=True)
class LinePart(_Curve):
    """`y` over the numbers `x` with its interval, a line for each value of `group`; for a handful of them.

    path: points are joined in the order of the table, as the way of something, and not in that of x.
    """

    log_x: bool = False
    path: bool = False


@dataclass(frozen=True, kw_only=True)
class BarPart(_Curve):
    """`y` with its interval at each of the names `x`, a mark for each value of `group`; for a handful of them."""


@dataclass(frozen=True)
class View:
    """What a report shows of a step: title, what it means and does not mean, figures and tables in their order."""

    title: str
    explains: str
    parts: tuple[TablePart | MapPart | LinePart | BarPart, ...]
