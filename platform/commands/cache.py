"""`mplat cache ls` and `mplat cache verify`: what the analyses have cached, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ToleranceError, UsageError, suggest
from ..core.plain_text import Table
from .frame.command import command
from .frame.folders import refuse_file
from .frame.options import CacheFolder, Json
from .frame.output import Output

if TYPE_CHECKING:
    from ..interp import Cache

StepFilter = Annotated[str | None, typer.Argument(metavar="[STEP]", help="Only the results of this step.")]


@command("cache ls", order=70)
def cache_ls(step: StepFilter = None, cache: CacheFolder = None, as_json: Json = False) -> None:
    """List cached results."""
    output = Output(json=as_json)
    store = _open(cache, output)
    entries = store.entries(known_step(step))
    values = [
        {
            "step": entry.step,
            "key": entry.key,
            "model_digest": str(entry.components["model"]),
            "rows": sum(part.rows for part in entry.parts),
            "tensors": sum(part.tensors for part in entry.parts),
            "bytes": entry.bytes,
            "folder": str(entry.folder),
        }
        for entry in entries
    ]
    rows = [[v["step"], v["key"][:12], v["model_digest"][:12], v["rows"], v["tensors"], v["bytes"]] for v in values]
    shown = Table(["step", "key", "model digest", "rows", "tensors", "bytes"], rows)
    nothing = f"nothing is cached in {store.folder}"
    output.result({"cache": str(store.folder), "entries": values}, shown if rows else nothing)


@command("cache verify", order=70)
def cache_verify(step: StepFilter = None, cache: CacheFolder = None, as_json: Json = False) -> None:
    """Read every cached result and check its digests; exit 1 where one is damaged."""
    output = Output(json=as_json)
    store = _open(cache, output)
    entries = store.entries(known_step(step))
    problems = [problem for entry in entries for problem in store.verify(entry)]
    text = "\n".join([*problems, f"{len(entries)} results in {store.folder}, {len(problems)} damaged files"])
    output.result({"cache": str(store.folder), "entries": len(entries), "problems": problems}, text)
    if problems:
        raise ToleranceError(f"{len(problems)} cached files are damaged; what needs them will compute them again")


def _open(folder: Path | None, output: Output) -> Cache:
    """The cache to look into: one that is named has to be there, the default one need not."""
    from ..interp import Cache

    refuse_file(folder)
    if folder is not None and not folder.exists():
        raise UsageError(f"--cache {folder}: there is no such folder; `mplat interp --cache` makes one")
    return Cache(folder, warn=output.warn)


def known_step(step: str | None) -> str | None:
    """`step`, where it is named; UsageError where there is no such one."""
    from ..interp import all_steps

    if step is not None and step not in all_steps():
        raise UsageError(f"unknown interp step {step!r}; {suggest(step, all_steps())}")
    return step
