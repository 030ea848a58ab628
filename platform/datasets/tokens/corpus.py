"""Which files a corpus is made of: files, folders, patterns and data sets of the hub, in the order that they are given.

A folder stands for every text file below it, a pattern (`*`, `?`, `[...]`, `**` for folders below) for what it fits, by
path. A file is taken once.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import InputError, UsageError
from ..sources.finding import data_files
from ..sources.own_files import kind
from .hub_texts import HUB
from .reading import check_kind


def corpus_files(given: Sequence[str]) -> list[str]:
    """The files, each an absolute path or a name of the hub.

    Raises UsageError where nothing is given or a file is meant twice, InputError where there is no such file or it
    holds no texts.
    """
    if not given:
        raise UsageError("no files are named; give .jsonl, .txt, .csv or .parquet files, folders, or hub:NAME")
    files = [file for name in given for file in ([name] if name.startswith(HUB) else map(str, _files(name)))]
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise UsageError(f"{twice[0]}: is named twice; give every file once")
    return files


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = [file.resolve() for file in data_files(path, kind)]
        if not found:
            raise InputError(f"{path}: holds no text file (.jsonl, .txt, .csv, .tsv, .json, .parquet); name another")
        return found
    if path.exists():
        check_kind(path)
        return [path.resolve()]
    found = [Path(one) for one in sorted(glob.glob(name, recursive=True))]
    if not found:
        what = "no file fits this pattern" if glob.has_magic(name) else "there is no such file"
        raise InputError(f"{name}: {what}")
    return [inner for one in found for inner in _files(str(one))]
