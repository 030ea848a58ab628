"""`mplat report`: one self-contained HTML page from the folders of one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import writable_folder
from .frame.options import Json, Quiet, as_path
from .frame.output import Output

_NAME = "report.html"


@command("report", order=60)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", parser=as_path, help="Folders of runs, of several runs, or summaries that classify wrote."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            parser=as_path,
            help="The page; default: report.html in the folder of a single run.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Title of the page.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Lay out runs as one page: accuracy per level, differences, price, recipe, answers, provenance."""
    output = Output(json=as_json, quiet=quiet)
    page = _target(runs, out)

    from ..report import load, write

    content = load(runs, title=title)
    writable_folder(page.parent)
    digest = write(content, page)
    gaps = [*content.missing]
    for run in (*content.evaluations, *content.interpretations):
        gaps += run.missing
    for gap in gaps:
        output.warn(gap)
    values = {
        "report": str(page),
        "sha256": digest,
        "evaluations": [run.folder for run in content.evaluations],
        "interpretations": [run.folder for run in content.interpretations if run not in content.traces],
        "traces": [run.folder for run in content.traces],
        "classifications": [entry.source for entry in content.classifications],
        "trainings": [entry.source for entry in content.trainings],
        "missing": gaps,
    }
    output.result(values, f"open {page} in a browser")


def _target(runs: list[Path], out: Path | None) -> Path:
    """Where the page goes."""
    if out is None:
        if len(runs) != 1:
            raise UsageError(f"{len(runs)} runs make one page; say where it goes with --out FILE.html")
        return (runs[0] if runs[0].is_dir() else runs[0].parent) / _NAME
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; give the name of a file, such as {out / _NAME}")
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the report is an HTML page; give a name that ends in .html")
    return out
