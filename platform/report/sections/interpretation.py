"""An interp run's folder -> `Interpretation`: of every step what its own view says, its tables, and their statuses.

Reads run.json and the step results beside it. A step without a view, or one that this installation does not have, is
shown by the first rows of its tables. A result that was made and is not there is listed in `missing`, and so is a step
that failed or was skipped, with its error and the command that runs it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...core.errors import InputError
from ...core.whole_files import read_table
from ...interp.engine.statuses import COLUMN as STATUS
from ...interp.engine.step import STEPS
from ...interp.engine.view import EVERY, Column, TablePart, View
from ...models.lending import label_of
from ..content import Fact, Interpretation, StepFile, StepResults
from ..documents import Document, flat
from ..section import section
from .over_points import Swept, over_points
from .views import Content, show

_REMEDY = "make it again with `mplat interp`"
_FIRST_ROWS = 10
#: of a step: part -> name of its file and what it holds
Tables = Mapping[str, tuple[str, pa.Table]]
_EMPTY = "No row here has a value; the statuses below say why."


@section("interp")
def read_interpretation(folder: Path, run: Document) -> Interpretation:
    """The interp run in `folder`, whose run.json is `run`. Raises InputError for a damaged table."""
    missing = list(_failures(run.at("details")))
    swept, about = _swept(run.at("details"))
    steps: list[StepResults] = []
    for name, result in run.at("details").at("steps").entries():
        if not any(kept in result for kept in ("file", "parts", "tensors")):
            continue  # it was not asked for, only needed
        files, tensors = dict(_files(result, "file", "parts")), [file for _, file in _files(result, "", "tensors")]
        absent = [file for file in (*files.values(), *tensors) if not (folder / file).is_file()]
        missing += [f"{name}: {folder / file} is not there; {_REMEDY}" for file in absent]
        if not absent:
            tables = {part: (file, read_table(folder / file, advice=_REMEDY)) for part, file in files.items()}
            view = _view(name, tables)
            if swept:
                view = over_points(view, swept, {part: table for part, (_, table) in tables.items()})
            steps.append(show_step(name, view, tables, tuple(tensors), folder, _REMEDY))
    return Interpretation(
        folder=str(folder),
        model=Path(label_of(run.at("model").at("name").text())).name,
        steps=tuple(steps),
        provenance=tuple(Fact(name, value) for name, value in flat(run.value)),
        missing=tuple(missing),
        about=about,
    )


def _swept(details: Document) -> tuple[list[Swept], tuple[Fact, ...]]:
    """What differs between the points of the run, also in words; nothing of an ordinary run."""
    swept: list[Swept] = []
    facts: list[Fact] = []
    for axis in details.at("swept").elements() if "swept" in details else ():
        name, values = axis.at("column").text(), tuple(value.value for value in axis.at("values").elements())
        swept.append(Swept(name, values))
        facts.append(Fact(name, f"{', '.join(map(str, values))} ({axis.at('meaning').text()})"))
    return swept, tuple(facts)


def _failures(details: Document) -> Iterator[str]:
    """A sentence for each step without a result."""
    for failure in details.at("failures").elements() if "failures" in details else ():
        name, said = failure.at("step").text(), failure.at("error").at("message").text()
        needed, again = failure.at("needed").value, failure.at("again").value
        at = f" at {failure.at('point').text()}" if "point" in failure else ""
        what = f"failed: {said}" if needed is None else f"was skipped, since {needed}, which it needs, failed: {said}"
        yield f"{name}{at} {what}; " + (_REMEDY if again is None else f"run it again with `{again}`")


def _files(result: Document, one: str, several: str) -> Iterator[tuple[str, str]]:
    """Part and file name."""
    if one and one in result:
        yield "", result.at(one).text()
    elif several in result:
        yield from ((part, file.text()) for part, file in result.at(several).entries())


def _view(name: str, tables: Tables) -> View:
    known = STEPS.get(name) if name in STEPS.names() else None
    return (None if known is None else known.view) or _first_rows(
        name, "" if known is None else known.meaning, {part: table for part, (_, table) in tables.items()}
    )


def show_step(
    name: str, view: View, tables: Tables, tensors: tuple[str, ...], folder: Path, remedy: str
) -> StepResults:
    """What `view` says of the tables of a step in `folder`. Raises InputError for a table or column that it lacks."""
    shown: list[Content] = []
    notes: list[str] = []
    for part in view.parts:
        for key in tables if part.part == EVERY else [part.part]:
            if key not in tables:
                raise InputError(f"{folder}: step {name!r} has no table {key!r} that its view names; {remedy}")
            file, table = tables[key]
            absent = sorted({*part.columns_read()} - {*table.column_names})
            if absent:
                raise InputError(f"{folder / file}: has no column {', '.join(absent)}; {remedy}")
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
    counts = pc.value_counts(table[STATUS]).to_pylist()  # a trace may have millions of rows
    return tuple(sorted((str(entry["values"]), entry["counts"]) for entry in counts))


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
