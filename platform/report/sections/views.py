"""A part of a step's view and the step's table -> what is shown: maps, curves and rows, as plain values.

It knows no step. Rows are chosen, grouped and put into words as the part says; no number is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ...interp.engine.view import BarPart, Beside, Column, LinePart, MapPart, Shown, TablePart
from ..content import Cell, Curves, Point, ShownTable, ValueMap
from ..text import p_value, plain_number, signed

Content = ValueMap | Curves | ShownTable
_FORMS = {"plain": plain_number, "signed": signed, "p": p_value}


class Made(NamedTuple):
    """What a part gives, and sentences on what it does not show."""

    shown: list[Content]
    notes: list[str]


def show(part: TablePart | MapPart | LinePart | BarPart, table: pa.Table) -> Made:
    """What `part` says of `table`, which has the columns that it reads."""
    rows = only(table, part.only)
    made: list[Content] = []
    several: list[str] = []
    groups = _groups(part, rows)
    for values, chosen in groups[: part.most]:
        title = part.title.format_map({name: _word(part, value) for name, value in values.items()})
        if isinstance(part, TablePart):
            content = _table(part, title, chosen, table)
        elif isinstance(part, MapPart):
            content = _map(part, title, chosen)
            if content is None and _several(part, chosen):
                several.append(title)
        else:
            content = _curves(part, title, chosen)
        made += [] if content is None else [content]
    more = len(groups) - part.most
    notes = [f"The first {part.most} of {len(groups)} are drawn; the tables hold the others."] if more > 0 else []
    if several:
        notes.append(f"Not drawn, because there are several values for one place: {'; '.join(several)}.")
    return Made(made, notes)


def only(table: pa.Table, wanted_of: Mapping[str, Any]) -> pa.Table:
    """The rows that hold in each of these columns the value, or one of the values of a tuple."""
    for name, wanted in wanted_of.items():
        values = wanted if isinstance(wanted, tuple) else (wanted,)
        table = table.filter(pc.field(name).isin(pa.array(values, table.schema.field(name).type)))
    return table


def _groups(part: Shown, table: pa.Table) -> list[tuple[dict[str, Any], pa.Table]]:
    """The rows for each combination of values of the columns `each`; without such columns all rows are one group."""
    if not part.each:
        return [({}, table)]
    keys = list(zip(*(table[name].to_pylist() for name in part.each), strict=True))
    places: dict[tuple[Any, ...], list[int]] = {}
    for number, key in enumerate(keys):
        places.setdefault(key, []).append(number)
    axes = [_order(part, (key[i] for key in places)) for i in range(len(part.each))]
    ordered = sorted(places, key=lambda key: [axis.index(value) for axis, value in zip(axes, key, strict=True)])
    return [(dict(zip(part.each, key, strict=True)), table.take(places[key])) for key in ordered]


def _order(part: Shown, values: Iterable[Any]) -> list[Any]:
    """Values once each: numbers ascending, texts as `words` has them, then as they come."""
    there = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) for value in there):
        return sorted(there)
    worded = [value for value in part.words if value in there]
    return worded + [value for value in there if value not in part.words]


def _word(part: Shown, value: Any) -> str:
    if value in part.words:
        return part.words[value]
    if isinstance(value, str) and all(one in part.words for one in value.split("+")):
        return " and ".join(part.words[one] for one in value.split("+"))
    if isinstance(value, float):
        return plain_number(value)
    return "none" if value is None else str(value)


def _map(part: MapPart, title: str, table: pa.Table) -> ValueMap | None:
    names = (part.rows, part.columns, part.value)
    cells = [row for row in zip(*(table[name].to_pylist() for name in names), strict=True) if None not in row[:2]]
    if all(value is None for _, _, value in cells) or _several(part, table):
        return None
    known = {(row, column): value for row, column, value in cells}
    rows, columns = (_order(part, (cell[axis] for cell in cells)) for axis in (0, 1))
    return ValueMap(
        title=title,
        note=part.explains,
        label=part.label or part.value,
        scale=part.scale,
        row_title=part.rows.replace("_", " "),
        column_title=part.columns.replace("_", " "),
        layers=tuple(part.words.get(row, row) for row in rows),
        columns=tuple(part.words.get(column, column) for column in columns),
        values=tuple(tuple(known.get((row, column)) for column in columns) for row in rows),
    )


def _several(part: MapPart, table: pa.Table) -> bool:
    """Whether two rows belong to one place of the map."""
    places = zip(table[part.rows].to_pylist(), table[part.columns].to_pylist(), strict=True)
    return max(Counter(place for place in places if None not in place).values(), default=0) > 1


def _curves(part: LinePart | BarPart, title: str, table: pa.Table) -> Curves | None:
    def column(name: str | None) -> Sequence[Any]:
        return [None] * table.num_rows if name is None else table[name].to_pylist()

    lines: dict[Any, list[Point]] = {}
    read = zip(*(column(name) for name in (part.group, part.x, part.y, part.low, part.high)), strict=True)
    for group, x, y, low, high in read:
        if x is not None and y is not None:
            lines.setdefault(group, []).append(Point(x, y, low, high))
    if not lines:
        return None
    names: tuple[str, ...] = ()
    if isinstance(part, BarPart):
        order = _order(part, (point.x for points in lines.values() for point in points))
        names = tuple(_word(part, x) for x in order)
        lines = {group: [point._replace(x=_word(part, point.x)) for point in its] for group, its in lines.items()}
    elif not part.path:
        lines = {group: sorted(points, key=lambda point: point.x) for group, points in lines.items()}
    return Curves(
        title=title,
        note=part.explains,
        x_label=part.x_label or part.x,
        y_label=part.label or part.y,
        lines=tuple(
            ("" if part.group is None else _word(part, group), tuple(lines[group])) for group in _order(part, lines)
        ),
        names=names,
        log_x=isinstance(part, LinePart) and part.log_x,
        log_y=part.log_y,
        path=isinstance(part, LinePart) and part.path,
    )


def _table(part: TablePart, title: str, table: pa.Table, whole: pa.Table) -> ShownTable | None:
    if not table.num_rows:
        return None
    keys = [(name.removeprefix("-"), "descending" if name[0] == "-" else "ascending") for name in part.sort]
    ordered = table.sort_by(keys) if keys else table
    rows = ordered.slice(0, part.top).select(sorted({*part.columns_read()})).to_pylist()
    beside = {i: _beside(column.beside, column, whole) for i, column in enumerate(part.columns) if column.beside}
    return ShownTable(
        title=title,
        note=part.explains,
        columns=tuple(column.title or column.name for column in part.columns),
        rows=tuple(
            tuple(
                beside[i].get(tuple(row[key] for key in column.beside.same), column.absent)
                if column.beside
                else _cell(part, column, row)
                for i, column in enumerate(part.columns)
            )
            for row in rows
        ),
        left_out=max(0, table.num_rows - part.top),
        folded=part.folded,
    )


def _cell(part: Shown, column: Column, row: Mapping[str, Any]) -> Cell:
    value = row[column.name]
    if value is None:
        return column.absent
    if isinstance(value, str) and value in part.words:
        return part.words[value]
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if column.low is None or column.high is None or row[column.low] is None or row[column.high] is None:
        return value if column.form == "plain" else _FORMS[column.form](value)
    form = _FORMS[column.form]
    return f"{form(value)} ({form(row[column.low])} to {form(row[column.high])})"


def _beside(beside: Beside, column: Column, table: pa.Table) -> dict[tuple[Any, ...], str]:
    """What the other rows hold, in their order, by what they agree in."""
    texts_of: dict[tuple[Any, ...], list[str]] = {}
    form = _FORMS[column.form]
    for row in only(table, beside.only).select(sorted({column.name, *beside.same})).to_pylist():
        value = row[column.name]
        text = "not measured" if value is None else form(value)
        texts_of.setdefault(tuple(row[key] for key in beside.same), []).append(text)
    return {key: ", ".join(texts) for key, texts in texts_of.items()}
