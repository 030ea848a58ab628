"""Reading data sets from the Hugging Face hub, or from the local caches of it.

    reading = read_hub("squad", splits=["dev"])

Each data set names its copies with the commit that is read (`DataSet.hub_copies`). A copy of that commit in a local
cache is read as any other files are, without a network and without a library. Otherwise the `datasets` library, which
is optional (`pip install 'mplat[hub]'`), fetches it, and what it returns must be that commit: offline it would give
whatever version it has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ...core.errors import InputError, UsageError, suggest
from ..data_set import DataSet, HubCopy, get
from ..reading import FAIL_OVER, Reading, read_rows
from .files import values
from .hub_cache import cached_files, expected_rows

SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # ours -> the hub's
_BATCH = 512


def read_hub(
    data_set: str | DataSet,
    *,
    splits: Sequence[str] = ("dev",),
    copy: HubCopy | None = None,
    fail_over: float = FAIL_OVER,
) -> Reading:
    """Every question of `splits` of a data set; `copy` is the first of its `hub_copies` by default.

    Raises UsageError where a split does not exist or `datasets` is needed and not installed, InputError where neither
    the hub nor a cache has the copy, or more records than `fail_over` are bad.
    """
    chosen = get(data_set) if isinstance(data_set, str) else data_set
    for split in splits:
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}; {suggest(split, SPLITS)}")
    if not splits:
        raise UsageError("no split is named; give some of train, dev and test")
    if copy is None:
        if not chosen.hub_copies:
            raise UsageError(f"{chosen.title} has no copy on the hub that is known; give its files with --data-dir")
        copy = chosen.hub_copies[0]
    places = {
        f"{address(copy)}/{SPLITS[split]}": (split, _rows(chosen, copy, split)) for split in dict.fromkeys(splits)
    }
    return read_rows(chosen, places, fail_over=fail_over)


def address(copy: HubCopy) -> str:
    """Repository, commit and configuration in one word, for messages and records."""
    return f"{copy.repository}@{copy.revision[:12]}/{copy.configuration}"


def _rows(data_set: DataSet, copy: HubCopy, split: str) -> Iterator[Any]:
    files = cached_files(copy, split)
    return _cached_rows(files, SPLITS[split]) if files else _fetched_rows(data_set, copy, SPLITS[split])


def _cached_rows(files: Sequence[Path], split: str) -> Iterator[Any]:
    count = 0
    for entry in chain.from_iterable(values(path) for path in files):
        count += 1
        yield entry
    expected = expected_rows(files, split)
    if expected not in (None, count):
        raise InputError(
            f"{files[0].parent}: has {count} rows of the split {split}, its dataset_info.json says {expected}; "
            "delete the folder and fetch it again"
        )


def _fetched_rows(data_set: DataSet, copy: HubCopy, split: str) -> Iterator[Any]:
    library = _library(data_set, copy)
    try:
        table = library.load_dataset(copy.repository, copy.configuration, split=split, revision=copy.revision)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{address(copy)}: cannot be loaded from the hub, and is in no local cache ({reason}); connect once to "
            f"fetch it, or give the files of {data_set.title} with --data-dir"
        ) from error
    files = [str(entry["filename"]) for entry in table.cache_files]
    if wrong := [file for file in files if copy.revision not in Path(file).parts]:
        raise InputError(
            f"{wrong[0]}: is another version than commit {copy.revision} of {copy.repository}, which is asked for and "
            "is in no local cache; connect once to fetch it"
        )
    for batch in table.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def _library(data_set: DataSet, copy: HubCopy) -> Any:
    """The `datasets` package; a folder of that name on the path is not it."""
    found = importlib.util.find_spec("datasets")
    if found is None or found.origin is None:
        raise UsageError(
            f"{address(copy)} is in no local cache, and fetching it needs the `datasets` library, which is not "
            f"installed: `pip install 'mplat[hub]'`, or give the files of {data_set.title} with --data-dir"
        )
    import datasets

    return datasets
