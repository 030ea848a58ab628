"""Texts of the Hugging Face hub, streamed: `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIGURATION:SPLIT`, each NAME
also as NAME@REVISION; a local folder of data files works as NAME too.

A name is pinned to the commit that it means now, and read at that commit from then on. Needs the `datasets` library
(`pip install 'mplat[hub]'`), which is asked for shards: as many as the data set has files. No code of a data set is
run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError, UsageError
from ..sources.files import Value
from ..sources.finding import data_files
from .reading import Fields, Numbered, of_rows

HUB = "hub:"
_FORM = re.compile(r"hub:([^:@]+)(?:@([^:@]+))?(?::([^:]+))?(?::([^:]+))?")


class HubTexts(NamedTuple):
    """A data set as it was found. name: with its commit; digest: of the commit, or of a folder's files."""

    name: str
    digest: str
    shards: int


class _Parsed(NamedTuple):
    repository: str
    revision: str | None
    configuration: str | None
    split: str


def pinned(name: str) -> HubTexts:
    """What `name` means now.

    Raises UsageError for a name of another form or where `datasets` is not installed, InputError where the data set
    cannot be reached or has no such split.
    """
    parsed = _parse(name)
    revision = parsed.revision
    if not Path(parsed.repository).is_dir():
        from huggingface_hub import HfApi

        try:
            revision = HfApi().dataset_info(parsed.repository, revision=revision).sha
        except (OSError, ValueError) as error:
            raise InputError(
                f"{name}: the hub cannot be asked for its commit ({_first_line(error)}); connect, or name a folder"
            ) from error
        digest = hashlib.sha256(str(revision).encode()).hexdigest()
    else:
        digest = _digest_of_folder(Path(parsed.repository))
    parts = [parsed.repository + (f"@{revision}" if revision else ""), parsed.configuration or "", parsed.split]
    whole = HUB + ":".join(part for part in parts if part)
    return HubTexts(whole, digest, int(_stream(whole).num_shards))


def hub_records(name: str, shard: int, shards: int, fields: Fields) -> Iterator[Numbered]:
    """The records of one shard, counted within it. Raises InputError where they cannot be fetched."""
    stream = _stream(name).shard(num_shards=shards, index=shard)
    try:
        yield from of_rows(((n, Value(f"row {n}", record)) for n, record in enumerate(stream, 1)), fields)
    except (OSError, RuntimeError, LookupError) as error:
        raise InputError(f"{name}, shard {shard}: cannot be read ({_first_line(error)}); try again") from error


def _parse(name: str) -> _Parsed:
    match = _FORM.fullmatch(name)
    if match is None:
        raise UsageError(f"{name}: not a data set of the hub; write hub:NAME, hub:NAME:SPLIT or "
                         "hub:NAME:CONFIGURATION:SPLIT")  # fmt: skip
    repository, revision, one, two = match.groups()
    return _Parsed(repository, revision, one if two else None, two or one or "train")


def _stream(name: str) -> Any:
    found = importlib.util.find_spec("datasets")
    if found is None or found.origin is None:  # a folder of that name on the path is not the library
        raise UsageError(f"{name}: needs the `datasets` library, which is not installed: `pip install 'mplat[hub]'`")
    import datasets

    repository, revision, configuration, split = _parse(name)
    try:
        return datasets.load_dataset(repository, configuration, split=split, revision=revision, streaming=True)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise InputError(f"{name}: cannot be opened ({_first_line(error)}); look for its name, configurations and "
                         "splits on the hub") from error  # fmt: skip


def _digest_of_folder(folder: Path) -> str:
    total = hashlib.sha256()
    for path in data_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
