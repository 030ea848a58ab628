"""Reading data sets from the Hugging Face hub, or from the local cache of it, through the `datasets` library.

    reading = read_hub("squad", splits=["dev"])

Each data set names its copies with the commit that is read (`DataSet.hub_copies`), and what the library returns must
be that commit: offline it would otherwise give whatever version it has. Offline use needs nothing but HF_HUB_OFFLINE=1
and a copy in the cache. The library is optional (`pip install mplat[hub]`); without it, the Arrow and Parquet files of
the cache can be read as any other files, with --data-dir.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError, UsageError, suggest
from .reading import FAIL_OVER, Reading, read_rows
from .registry import DataSet, HubCopy, get

SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # ours -> the hub's
_BATCH = 512


def read_hub(
    data_set: str, *, splits: Sequence[str] = ("dev",), copy: HubCopy | None = None, fail_over: float = FAIL_OVER
) -> Reading:
    """Every question of `splits` of a data set; `copy` is the first of its `hub_copies` by default.

    Raises UsageError where `datasets` is not installed or a split does not exist, InputError where neither the hub nor
    the cache has the copy, or more records than `fail_over` are bad.
    """
    chosen = get(data_set)
    for split in splits:
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}; {suggest(split, SPLITS)}")
    if not splits:
        raise UsageError("no split is named; give some of train, dev and test")
    if copy is None:
        if not chosen.hub_copies:
            raise UsageError(f"{chosen.title} has no copy on the hub that is known; give its files with --data-dir")
        copy = chosen.hub_copies[0]
    places = {f"{address(copy)}/{SPLITS[split]}": (split, _rows(chosen, copy, SPLITS[split])) for split in splits}
    return read_rows(chosen, places, fail_over=fail_over)


def address(copy: HubCopy) -> str:
    """Repository, commit and configuration in one word, for messages and records."""
    return f"{copy.repository}@{copy.revision[:12]}/{copy.configuration}"


def _rows(data_set: DataSet, copy: HubCopy, split: str) -> Iterator[Any]:
    library = _library()
    try:
        table = library.load_dataset(copy.repository, copy.configuration, split=split, revision=copy.revision)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{address(copy)}: cannot be loaded from the hub or its cache ({reason}); connect once to fetch it, "
            f"or give the files of {data_set.title} with --data-dir"
        ) from error
    files = [entry["filename"] for entry in table.cache_files]
    if wrong := [file for file in files if copy.revision not in file.replace("\\", "/").split("/")]:
        raise InputError(
            f"{wrong[0]}: is another version than commit {copy.revision} of {copy.repository}, which is asked for and "
            "is not in the cache; connect once to fetch it"
        )
    for batch in table.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def _library() -> Any:
    """The `datasets` package; a folder of that name on the path is not it."""
    found = importlib.util.find_spec("datasets")
    if found is None or found.origin is None:
        raise UsageError(
            "reading from the hub needs the `datasets` library, which is not installed; "
            "`pip install 'mplat[hub]'` installs it, --data-dir reads files without it"
        )
    import datasets

    return datasets
