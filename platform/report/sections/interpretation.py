"""An interp run's folder -> `Interpretation`: of every step what its own view says, its tables, and their statuses.

Reads run.json and the step results beside it. A step without a view, or one that this installation does not have, is
shown by the first rows of its tables. A result that was made and is not there is listed in `missing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from ...core.errors import InputError
from ...core.whole_files import read_table
from ...interp.engine.statuses import COLUMN as STATUS
from ...interp.engine.step import STEPS
from ...interp.engine.view import EVERY, Column, TablePart, View
from ..content import Fact, Interpretation, StepFile, StepResults
from ..documents import Document, flat
from ..section import section
from .views import Content, show

_REMEDY = "make it again with `mplat interp`"
_FIRST_ROWS = 10
_EMPTY = "No row here has a value; the statuses below say why."


@section("interp")
def read_interpretation(folder: Path, run: Document) -> Interpretation:
    """The interp run in `folder`, whose run.json is `run`. Raises InputError for a damaged table."""
    missing: list[str] = []
    steps: list[StepResults] = []
    for name, result in run.at("details").at("steps").entries():
        if not any(kept in result for kept in ("file", "parts", "tensors")):
            continue  # it was not asked for, only needed
        files, tensors = dict(_files(result, "file", "parts")), [file for _, file in _files(result, "", "tensors")]
        absent = [file for file in (*files.values(), *tensors) if not (folder / file).is_file()]
        missing += [f"{name}: {folder / file} is not there; {_REMEDY}" for file in absent]
        if not absent:
            tables = {part: (file, read_table(folder / file, advice=_REMEDY)) for part, file in files.items()}
            steps.append(_step(name, tables, tuple(tensors), folder))
    return Interpretation(
        folder=str(folder),
        model=Path(run.at("model").at("name").text()).name,
        steps=tuple(steps),
        provenance=tuple(Fact(name, value) for name, value in flat(run.value)),
        missing=tuple(missing),
    )


def _files(result: Document, one: str, several: str) -> Iterator[tuple[str, str]]:
    """Part and file name."""
    if one and one in result:
        yield "", result.at(one).text()
    elif several in result:
        yield from ((part, file.text()) for part, file in result.at(several).entries())


def _step(name: str, tables: Mapping[str, tuple[str, pa.Table]], tensors: tuple[str, ...], folder: Path) -> StepResults:
    known = STEPS.get(name) if name in STEPS.names() else None
    view = (None if known is None else known.view) or _first_rows(
        name, "" if known is None else known.meaning, {part: table for part, (_, table) in tables.items()}
    )
    shown: list[Content] = []
    notes: list[str] = []
    for part in view.parts:
        for key in tables if part.part == EVERY else [part.part]:
            if key not in tables:
                raise InputError(f"{folder}: step {name!r} has no table {key!r} that its view names; {_REMEDY}")
            file, table = tables[key]
            absent = sorted({*part.columns_read()} - {*table.column_names})
            if absent:
                raise InputError(f"{folder / file}: has no column {', '.join(absent)}; {_REMEDY}")
            made = show(part, table)
            shown += made.shown
            notes += made.notes
    if tables and not shown:
        notes.insert(0, _EMPTY)
    files = tuple(StepFile(file, table.num_rows, _statuses(table)) for file, table in tables.values())
    return StepResults(name, view.title, view.explains, tuple(shown), files, tensors, tuple(notes))


def _statuses(table: pa.Table) -> tuple[tuple[str, int], ...]:
    if STATUS not in table.column_names:
        return ()
    return tuple(sorted(Counter(str(status) for status in table[STATUS].to_pylist()).items()))


def _first_rows(name: str, meaning: str, tables: Mapping[str, pa.Table]) -> View:
    """The view of a step that has none."""
    parts = [
        TablePart(
            part=part,
            title=part,
            columns=tuple(Column(field.name) for field in table.schema if not _long(field.type)),
            top=_FIRST_ROWS,
        )
        for part, table in tables.items()
    ]
    return View(name, meaning, tuple(parts))


def _long(kind: pa.DataType) -> bool:
    """Whether values of the type are no numbers or texts that a reader could read."""
    return pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_nested(kind)
