"""`read`: what an analysis found, out of the cache, in one line.

    table = mplat.interp.read("attribution", model="tiny-mamba", layer=3)
    frame = mplat.interp.read("collect", part="places", model="tiny-mamba").to_pandas()

Nothing is computed. Of several results of a step for a model, which differ in questions or settings, the newest is
read; `where` picks by what is in their keys, `key` by the key itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import InputError, UsageError, suggest
from .engine.cache import MANIFEST, Cache, CachedResult, Stored
from .engine.step import all_steps

if TYPE_CHECKING:
    from ..models import LanguageModel


def read(
    step: str,
    *,
    model: str | LanguageModel | None = None,
    layer: int | None = None,
    part: str | None = None,
    where: Mapping[str, Any] | None = None,
    key: str | None = None,
    cache: Cache | Path | None = None,
) -> pa.Table:
    """A table of a step's newest result; `.to_pandas()` of it is a data frame, where pandas is installed.

    model: only results of this model, named or loaded. layer: only its rows. part: which of several tables. where:
    only results whose key has these values, by dotted names (`{"settings.sites": ["mixer_out"]}`); names and values
    are those that `mplat cache why` shows. key: the key or its beginning.

    Raises UsageError for a step, a part or a column `layer` that there is none of, InputError where no result fits.
    """
    stored = read_stored(step, model=model, where=where, key=key, cache=cache)
    if not stored.tables:
        raise UsageError(f"{step}: has tensors and no table; `read_stored` gives both")
    if part is None and len(stored.tables) > 1:
        raise UsageError(f"{step} has several tables; name one: part={' | '.join(map(repr, sorted(stored.tables)))}")
    name = next(iter(stored.tables)) if part is None else part
    if name not in stored.tables:
        raise UsageError(f"{step}: no table {name!r}; {suggest(name, stored.tables)}")
    table = stored.tables[name]
    if layer is None:
        return table
    if "layer" not in table.column_names:
        raise UsageError(f"{step}: its table {name!r} has no column layer; leave layer out")
    return table.filter(pc.equal(table["layer"], layer))


def read_stored(
    step: str,
    *,
    model: str | LanguageModel | None = None,
    where: Mapping[str, Any] | None = None,
    key: str | None = None,
    cache: Cache | Path | None = None,
) -> Stored:
    """All tables and tensors of the result that `read` reads."""
    if step not in all_steps():
        raise UsageError(f"unknown interp step {step!r}; {suggest(step, all_steps())}")
    folder = cache if isinstance(cache, Cache) else Cache(cache)
    digest = _digest_of(model)
    found = [
        entry
        for entry in folder.entries(step)
        if digest in (None, entry.components.get("model"))
        and entry.key.startswith(key or "")
        and all(_at(entry.components, name) == value for name, value in (where or {}).items())
    ]
    if not found:
        of = "" if model is None else f" of model {model if isinstance(model, str) else model.name}"
        raise InputError(
            f"{folder.folder}: no result of {step}{of}{' that fits' if where or key else ''}; compute one with "
            f"`mplat interp --model M --steps {step}`"
        )
    newest = max(found, key=_written)
    stored = folder.read_all(step, newest.key)
    if stored is None:
        raise InputError(f"{newest.folder}: the result is damaged; compute it again with `mplat interp`")
    return stored


def _digest_of(model: str | LanguageModel | None) -> str | None:
    if model is None:
        return None
    if isinstance(model, str):
        from ..models import load

        return load(model).digest
    return model.digest


def _written(entry: CachedResult) -> tuple[int, str]:
    return (entry.folder / MANIFEST).stat().st_mtime_ns, entry.key


def _at(components: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name; None for none."""
    value: Any = components
    for word in name.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    return value
