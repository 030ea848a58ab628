"""The view of a step that ran at several points: what its own view shows, over what differs between them.

First a line over the points for each number that the view draws or tabulates, where the table has one of it for each
point and place; then the view's own figures, at up to four points each, and its tables with the points as columns.
Nothing is computed: which numbers, of which rows, is chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ...interp.engine.points import column_in
from ...interp.engine.view import EVERY, BarPart, Column, LinePart, MapPart, TablePart, View
from .views import only

LINES = 8  # in one figure: values of a layer, a site, a distance
FIGURES = 12  # over the points, of one step
APART = 4  # points at which the view's own figures are drawn
_EACH = 3  # figures of one number
_PLACES = 64  # of more places, such as channels, no lines are drawn
_LOG = 8  # from this ratio of the largest to the smallest point on, the axis is logarithmic
_TOP = 400

Part = TablePart | MapPart | LinePart | BarPart


class Swept(NamedTuple):
    """What differs between points. values: as they come."""

    column: str
    values: tuple[Any, ...]


class _Number(NamedTuple):
    """A number that a part shows. places: columns that say where it stands. title: of its figure."""

    y: str
    low: str | None
    high: str | None
    label: str
    places: tuple[str, ...]
    title: str
    log_y: bool = False


def over_points(view: View, swept: Sequence[Swept], tables: Mapping[str, pa.Table]) -> View:
    """`view` for tables with the columns of `swept`."""
    lines: dict[tuple[Any, ...], Part] = {}
    apart: list[Part] = []
    for part in view.parts:
        for key in tables if part.part == EVERY else [part.part]:
            if key not in tables or {*part.columns_read()} - {*tables[key].column_names}:
                apart.append(part)  # whoever shows it says what is missing
                continue
            columns = [_column(axis.column, tables[key]) for axis in swept]
            for number in _numbers(part, tables[key]):
                name = (key, number.y, number.places[:1], str(part.only))
                known = isinstance(part, TablePart) and any(other[:2] == name[:2] for other in lines)
                if (
                    not known
                    and name not in lines
                    and (line := _line(part, key, tables[key], columns, number)) is not None
                ):
                    lines[name] = line
            apart.append(_apart(replace(part, part=key), columns, swept))
    shown = list(lines.values())[:FIGURES]
    more = f" {len(lines) - FIGURES} further numbers could be drawn so." if len(lines) > FIGURES else ""
    return View(view.title, view.explains + more, (*shown, *apart))


def _column(name: str, table: pa.Table) -> str:
    swept = column_in(name, [name])
    return swept if swept in table.column_names else name


def _numbers(part: Part, table: pa.Table) -> Iterator[_Number]:
    """The numbers that a part shows."""
    if isinstance(part, MapPart):
        label = part.label or part.value
        yield _Number(part.value, None, None, label, (part.rows, part.columns), label, part.scale == "log")
    elif isinstance(part, TablePart):
        floats = {field.name for field in table.schema if pa.types.is_floating(field.type)}
        numbers = [c for c in part.columns if c.low is not None or (c.name in floats and c.form != "p")]
        inside = {name for c in numbers for name in (c.name, c.low, c.high)} | floats
        places = tuple(c.name for c in part.columns if c.name not in inside and not c.beside)
        named = [(c, c.title or c.name) for c in numbers if not c.beside]
        yield from (_Number(c.name, c.low, c.high, title, places, title) for c, title in named)
    elif not (isinstance(part, LinePart) and part.path):
        places = (part.x,) if part.group is None else (part.x, part.group)
        label = part.label or part.y
        title = label if not part.title or part.each else part.title
        yield _Number(part.y, part.low, part.high, label, places, title, part.log_y)


def _line(part: Part, key: str, table: pa.Table, columns: Sequence[str], number: _Number) -> Part | None:
    """The number over the first of the swept columns; None where there are several of it at one point and place, no
    number, or more places than lines can show."""
    rows = only(table, part.only)
    rows = rows.filter(pc.is_valid(rows[number.y]))
    x, *others = columns
    places = [*dict.fromkeys((*part.each, *number.places, *others))]
    values = {name: pc.unique(rows[name]).to_pylist() for name in places}
    numeric = pa.types.is_integer(table.schema.field(number.y).type) or pa.types.is_floating(
        table.schema.field(number.y).type
    )
    if not numeric or len(pc.unique(rows[x])) < 2 or any(len(its) > _PLACES for its in values.values()):
        return None
    if rows.group_by([x, *places]).aggregate([]).num_rows < rows.num_rows:
        return None
    varied = [name for name in places if len(values[name]) > 1]
    group = max(varied, key=lambda name: (name in number.places, len(values[name])), default=None)
    each = tuple(name for name in varied if name != group)
    chosen, explains = {**part.only}, ""
    if group is not None and len(values[group]) > LINES:
        its = _evenly(_ordered(values[group]), LINES)
        chosen[group] = tuple(its)
        explains = f"{LINES} of the {len(values[group])} values of {group}."
    at = _ordered(pc.unique(rows[x]).to_pylist())
    title = ", ".join([f"{number.title} over {x}", *(f"{name} {{{name}}}" for name in each)])
    common: dict[str, Any] = {
        "part": key, "only": chosen, "each": each, "most": _EACH, "title": title, "explains": explains,
        "words": part.words, "x": x, "y": number.y, "low": number.low, "high": number.high, "group": group,
        "label": number.label, "log_y": number.log_y,
    }  # fmt: skip
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in at):
        return BarPart(**common)
    positive = [value for value in at if value > 0]
    log_x = at[0] >= 0 and min(positive, default=0) >= 1 and at[-1] >= _LOG * positive[0]
    return LinePart(**common, log_x=log_x)


def _apart(part: Part, columns: Sequence[str], swept: Sequence[Swept]) -> Part:
    """A part of the view at each point."""
    if isinstance(part, TablePart):
        shown = tuple(
            c if c.beside is None else replace(c, beside=replace(c.beside, same=(*c.beside.same, *columns)))
            for c in part.columns
        )
        points = max(1, *(len(axis.values) for axis in swept))
        return replace(part, columns=(*map(Column, columns), *shown), top=max(part.top, min(_TOP, part.top * points)))
    some = {name: tuple(_evenly(axis.values, APART)) for name, axis in zip(columns, swept, strict=True)}
    title = ", ".join([part.title, *(f"{name} {{{name}}}" for name in columns)])
    return replace(part, each=(*part.each, *columns), only={**part.only, **some}, title=title)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Ascending, where they are numbers."""
    return sorted(values) if all(isinstance(value, int | float) for value in values) else list(values)


def _evenly(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
