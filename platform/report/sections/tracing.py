"""A trace's folder -> `Interpretation`: its facts, its prompts by status, and what the view of `causal_trace` says.

A trace that is not finished, in which no prompt was traced or of which a table is gone has that said in `missing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ...core.whole_files import read_table
from ...interp.engine.step import STEPS
from ...interp.engine.view import LinePart, MapPart
from ...models.lending import label_of
from ..content import TRACES_HEADING, Fact, Interpretation, StepResults
from ..documents import Document, flat
from ..section import section
from ..text import plain_number
from .interpretation import Tables, show_step

_REMEDY = "make it again with `mplat trace`"


@section("trace")
def read_tracing(folder: Path, run: Document) -> Interpretation:
    """The trace in `folder`, whose run.json is `run`. Raises InputError for a damaged record or table."""
    in_words = run.at("details").at("in_words")
    about = [Fact(name, value.text()) for name, value in in_words.entries()]
    tables: Tables = {}
    missing: list[str] = []
    if run.at("status").text() != "done":
        missing.append(f"{folder}: the trace is not finished; run its command again")
    else:
        counts = ", ".join(f"{plain_number(count.whole())} {status}" for status, count in run.at("counts").entries())
        about.append(Fact("prompts by status", counts))
        made = {"traces.parquet", *(name for name, _ in run.at("files").entries())}
        paths = {part: folder / f"{part}.parquet" for part in ("traces", "averages") if f"{part}.parquet" in made}
        missing += [f"{path.name}: {path} is not there; {_REMEDY}" for path in paths.values() if not path.is_file()]
        tables = {p: (path.name, read_table(path, advice=_REMEDY)) for p, path in paths.items() if path.is_file()}
        if not missing and not ("averages" in tables and tables["averages"][1].num_rows):
            missing.append(f"{folder}: no prompt was traced, so there is nothing to average")
    steps = (_effects(tables, in_words.at("metric").text(), folder),) if tables else ()  # checks the columns
    about += _total(tables["averages"][1]) if "averages" in tables else ()
    return Interpretation(
        folder=str(folder),
        model=Path(label_of(run.at("model").at("name").text())).name,
        steps=steps,
        provenance=tuple(Fact(name, value) for name, value in flat(run.value)),
        missing=tuple(missing),
        heading=TRACES_HEADING,
        about=tuple(about),
    )


def _effects(tables: Tables, unit: str, folder: Path) -> StepResults:
    view = STEPS.get("causal_trace").view
    assert view is not None
    parts = (part for part in view.parts if part.part in tables)
    with_unit = (replace(p, label=f"{p.label}, {unit}") if isinstance(p, LinePart | MapPart) else p for p in parts)
    return show_step("causal_trace", replace(view, parts=tuple(with_unit)), tables, (), folder, _REMEDY)


def _total(averages: pa.Table) -> Iterator[Fact]:
    """The total effect, which is the same in every row."""
    for row in averages.slice(0, 1).select(["ate", "ate_low", "ate_high"]).to_pylist():
        mean, *interval = ("not measured" if value is None else plain_number(value) for value in row.values())
        yield Fact("total effect of the corruption (ATE)", f"{mean} ({' to '.join(interval)})")
