"""Model folders of the Hugging Face hub: from its local cache, and from the hub itself where the cache lacks something.

A cache may hold a part of a model: the configuration that another program has looked at, or the shards that came before
a download broke off. What is there is used, and the hub is asked for the rest. HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE
mean what they mean everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import InputError
from . import catalog, layouts, weight_files

_SMALL_FILES = ("*.json", "*.txt", "*.model")
_SECONDS = 5  # to wait for the hub's answer


def cache() -> Path:
    """The folder that holds the hub's files here. It need not exist."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_id(name: str) -> bool:
    """Whether `name` may be a model on the hub: `owner/model`, or one of the first models, which have no owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith(("~", "."))


def snapshot(repo: str) -> Path | None:
    """The folder of the cached files of `repo`, those of its main branch; None where there are none."""
    home = cache() / f"models--{repo.replace('/', '--')}"
    try:
        commit = (home / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = home / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def fetch(repo: str) -> Path:
    """The folder of a model on the hub with all its files, of which none is fetched that is in the cache.

    Raises InputError, naming what is missing, where the hub gives no answer.
    """
    here = snapshot(repo)
    if here is not None and not _missing(here):
        return here
    safe = [*_SMALL_FILES, *weight_files.SAFETENSORS]
    for patterns in (safe, [*safe, *weight_files.PICKLES, *_of_other_programs()]):
        found = _ask(repo, patterns)  # pickles are many gigabytes, and asked for only where there is nothing better
        if not _missing(found):
            return found
    raise InputError(_partly(repo, found))


def fetch_file(repo: str, name: str) -> Path | None:
    """One file of `repo`, cached or fetched; None where it is in no cache and the hub has or answers nothing."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache

    known = try_to_load_from_cache(repo, name, cache_dir=cache())
    if isinstance(known, str):
        return Path(known)
    if known is _CACHED_NO_EXIST:
        return None
    try:
        return Path(hf_hub_download(repo, name, cache_dir=cache(), etag_timeout=_SECONDS))
    except (OSError, ValueError, RuntimeError):  # the library's own errors are of these kinds
        return None


def _missing(folder: Path) -> list[str]:
    """The files that the model in `folder` cannot be loaded without and that are not there."""
    if any(path.exists() for pattern in _of_other_programs() for path in folder.glob(pattern)):
        return []  # one file with everything
    here = [] if (folder / "config.json").exists() else ["config.json"]
    return here + weight_files.missing_files(folder)


def _of_other_programs() -> list[str]:
    return [pattern for layout in layouts.layouts().values() for pattern in layout.hub_files]


def _ask(repo: str, patterns: Sequence[str]) -> Path:
    """The folder after the hub has been asked for what fits `patterns`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    here = snapshot(repo)
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns), cache_dir=cache(), etag_timeout=_SECONDS))
    except GatedRepoError as error:
        raise InputError(f"model {repo!r} is gated: accept its terms on the hub, then `hf auth login`") from error
    except (OSError, ValueError, RuntimeError) as error:  # the library's own errors are of these kinds
        if here is not None:
            raise InputError(_partly(repo, here)) from error
        near = "mplat knows it" if repo in catalog.HUB else catalog.near(repo)
        start = f"no model {repo!r}: no such folder, not shipped, not in the local cache, and the hub"
        if isinstance(error, RepositoryNotFoundError):
            raise InputError(f"{start} has none of that name; {near}; see `mplat models`") from error
        slip = near.startswith("did you mean") and "/" not in repo
        remedy = "see `mplat models`" if slip else _remedy(repo)
        raise InputError(f"{start} gave no answer; {near}; {remedy}") from error


def _partly(repo: str, folder: Path) -> str:
    lacking = weight_files.listed(_missing(folder))
    return f"model {repo!r} is in the local cache without {lacking}, and the hub gave no more; {_remedy(repo)}"


def _remedy(repo: str) -> str:
    return f"fetch it where there is a network with `hf download {repo}`"
