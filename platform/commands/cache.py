"""`mplat cache`: what the analyses have cached, whether it is whole, and why a result is not found in it."""

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
from .frame.run import Typed
from .interp import plan_of

if TYPE_CHECKING:
    from ..interp import Cache, InterpConfig

StepFilter = Annotated[str | None, typer.Argument(metavar="[STEP]", help="Only the results of this step.")]


@command("cache ls", order=70)
def cache_ls(step: StepFilter = None, cache: CacheFolder = None, as_json: Json = False) -> None:
    """List cached results."""
    output = Output(json=as_json)
    store = _open(cache, output)
    entries = store.entries(_known(step))
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
    entries = store.entries(_known(step))
    problems = [problem for entry in entries for problem in store.verify(entry)]
    text = "\n".join([*problems, f"{len(entries)} results in {store.folder}, {len(problems)} damaged files"])
    output.result({"cache": str(store.folder), "entries": len(entries), "problems": problems}, text)
    if problems:
        raise ToleranceError(f"{len(problems)} cached files are damaged; what needs them will compute them again")


@command(
    "cache why",
    order=70,
    config="interp.engine.interp_config.config_model",
    without=(
        "--steps", "--actors", "--address", "--out", "--quiet", "--verbose", "--dry-run", "--fresh",
    ),
)  # fmt: skip
def cache_why(
    typed: Typed[InterpConfig],
    step: Annotated[str, typer.Argument(help="The step whose cached result is in question.")],
    cache: CacheFolder = None,
) -> None:
    """Say why `mplat interp` with these options finds a result in the cache, or what first differs from the nearest."""
    from ..interp import Cache
    from ..interp.engine.key import nearest

    output, name = typed.output, _known(step)
    assert name is not None
    refuse_file(cache)
    plan = plan_of(typed.with_value("steps", name))
    store = Cache(cache, warn=output.warn)
    key = plan.steps[name].key
    entries = store.entries(name)
    cached = any(entry.key == key.digest for entry in entries)
    values = {"step": name, "key": key.digest, "cached": cached, "entries": len(entries)}
    if cached:
        output.result(values | {"differences": []}, f"{name} is cached under {key.digest[:12]}: nothing differs")
        return
    found = nearest(key, {entry.key: entry.components for entry in entries})
    if found is None:
        holds = "holds no result of this step" if store.folder.is_dir() else "does not exist yet"
        text = f"{name} is not cached: {store.folder} {holds}"
        output.result(values | {"differences": []}, text)
        return
    other, differing = found
    more = f"\nalso different: {', '.join(map(str, differing[1:]))}" if len(differing) > 1 else ""
    output.result(
        values | {"nearest": other, "differences": [d._asdict() for d in differing]},
        f"{name} is not cached: compared with the nearest result, {other[:12]}, first differs {differing[0]}{more}",
    )


def _open(folder: Path | None, output: Output) -> Cache:
    """The cache to look into: one that is named has to be there, the default one need not."""
    from ..interp import Cache

    refuse_file(folder)
    if folder is not None and not folder.exists():
        raise UsageError(f"--cache {folder}: there is no such folder; `mplat interp --cache` makes one")
    return Cache(folder, warn=output.warn)


def _known(step: str | None) -> str | None:
    from ..interp import all_steps

    if step is not None and step not in all_steps():
        raise UsageError(f"unknown interp step {step!r}; {suggest(step, all_steps())}")
    return step
