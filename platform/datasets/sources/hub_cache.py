"""The files of a pinned copy in the local caches of the Hugging Face hub, found without any library and any network.

Two caches may have them: that of `datasets` (Arrow, below HF_DATASETS_CACHE) and that of the hub's own files (Parquet
or JSON as they were uploaded, below HF_HUB_CACHE). Both have the commit in their paths, so what is found is what is
asked for, and not the newest version that happens to be there. Shards that are missing make a copy incomplete: it is
then not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...core.errors import InputError
from ...core.json_files import read_object
from ..data_set import HubCopy
from ..reading import split_of
from .files import bare_suffix

_SHARD = re.compile(r"(?P<number>\d{5})-of-(?P<count>\d{5})")


def cached_files(copy: HubCopy, split: str) -> tuple[Path, ...]:
    """The files of `split` (train, dev, test) of `copy`, in order; () where no cache has all of them."""
    owner, _, name = copy.repository.rpartition("/")
    arrow = _home("HF_DATASETS_CACHE", "datasets") / "___".join(part for part in (owner, name) if part)
    folders = sorted(arrow.glob(f"{copy.configuration}/*/{copy.revision}"))
    snapshot = _home("HF_HUB_CACHE", "hub") / f"datasets--{copy.repository.replace('/', '--')}" / "snapshots"
    snapshot /= copy.revision
    folders += [next((f for f in (snapshot / copy.configuration, snapshot / "data") if f.is_dir()), snapshot)]
    for folder in folders:
        found = [path for path in _listed(folder) if bare_suffix(path) and split_of(path) == split]
        if found and _complete(found):
            return tuple(found)
    return ()


def expected_rows(files: Iterable[Path], split_name: str) -> int | None:
    """How many rows `datasets` says the split has, None where it does not say."""
    folder = next(iter(files)).parent
    try:
        count = read_object(folder / "dataset_info.json")["splits"][split_name]["num_examples"]
    except (InputError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None


def _home(variable: str, below: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser() / below


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and path.name != "dataset_info.json")
    except OSError:
        return []


def _complete(files: list[Path]) -> bool:
    shards = [_SHARD.search(path.name) for path in files]
    counts = {int(shard["count"]) for shard in shards if shard}
    return not counts or (len(counts) == 1 and len(files) == counts.pop())
