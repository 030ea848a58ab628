"""Where a command writes: the name of a run's folder, and whether a folder can be written to, asked before any work."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import UsageError

if TYPE_CHECKING:
    from ...models import LanguageModel


def run_folder(command: str, model: LanguageModel, source: Path | str | None) -> Path:
    """A run's folder where none is named: the command, the model, and the file or set of its questions."""
    from ...models.lending import label

    parts = [command, Path(label(model)).name.removesuffix(".json").replace(":", "-")]
    if source is not None and (stem := Path(source).name.split(".")[0]):
        parts.append(stem)
    return Path("runs") / "-".join(parts)


def writable(folder: Path | None, *, caches: bool = False, cache: Path | None = None) -> None:
    """The folder of a run, where it has one, and the cache, where the run `caches`; UsageError as `writable_folder`."""
    if folder is not None:
        writable_folder(folder)
    if caches:
        writable_cache(cache)


def writable_cache(named: Path | None = None) -> Path:
    """The cache folder, `named` by --cache or the default one, as `writable_folder`, with the remedy that helps."""
    from ...core.folders import CACHE_VARIABLE, cache_folder

    if named is not None:
        return writable_folder(named, option="--cache")
    return writable_folder(
        cache_folder(), option="the cache", remedy=f"set {CACHE_VARIABLE} to a folder that can be written to"
    )


def writable_folder(path: Path, *, option: str = "--out", remedy: str = "choose another folder") -> Path:
    """`path` as an existing folder in which a file can be made; UsageError says what is in the way, and the `remedy`.

    Called before any work is done, so that a run does not fail at its first write.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{uuid.uuid4().hex}.part"
        probe.touch(exist_ok=False)
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), path)
        raise UsageError(f"{option} {path}: {blocking} is a file, not a folder; {remedy}") from error
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UsageError(f"{option} {str(path)[:200]!r}: cannot write there ({reason}); {remedy}") from error
    return path


def refuse_file(cache: Path | None) -> None:
    """UsageError where the cache folder, named or default, is a file."""
    from ...core.folders import CACHE_VARIABLE, cache_folder

    folder = cache_folder() if cache is None else cache
    if folder.is_file():
        named = CACHE_VARIABLE if cache is None else "--cache"
        raise UsageError(f"{named} {folder}: is a file; a cache is a folder, name one")


def refuse_other_file(out: Path, suffix: str, what: str) -> None:
    """UsageError where the file named by --out is a folder, or does not end as `what` does."""
    if out.suffix != suffix:
        raise UsageError(f"--out {out}: {what}; give a name that ends in {suffix}")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; give the name of a file")
