"""`mplat cache why STEP`: why a result is not found in the cache, or that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .cache import known_step
from .frame.command import command
from .frame.folders import refuse_file
from .frame.options import CacheFolder
from .frame.run import Typed
from .interp import plan_of

if TYPE_CHECKING:
    from ..interp import InterpConfig


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

    output, name = typed.output, known_step(step)
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
    compared = nearest(key, {entry.key: entry.components for entry in entries})
    if compared is None:
        holds = "holds no result of this step" if store.folder.is_dir() else "does not exist yet"
        text = f"{name} is not cached: {store.folder} {holds}"
        output.result(values | {"differences": []}, text)
        return
    other, differing = compared
    more = f"\nalso different: {', '.join(map(str, differing[1:]))}" if len(differing) > 1 else ""
    output.result(
        values | {"nearest": other, "differences": [d._asdict() for d in differing]},
        f"{name} is not cached: compared with the nearest result, {other[:12]}, first differs {differing[0]}{more}",
    )
