"""Which files of a folder belong to which data set, recognised by their content.

`find(names, folder)` looks at the first values of every data file below the folder, once for all data sets asked for,
and further where the first record is longer than that.
A file that is a close relative (SQuAD v2 for v1.1) is left out with a note. A file in a folder that another registered
data set recognises too is an error that names both: whose questions it holds is not for us to guess. A file too damaged
to look into is an error if its path names one of the data sets, since its questions would go missing, and a note
otherwise. Symbolic links that leave the folder are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ...core.errors import InputError
from ..data_set import DATA_SETS, DataSet, LookAlike, get
from .files import bare_suffix, head, long_head


@dataclass(frozen=True)
class DataSetFiles:
    """The files of one data set, in the order of their paths, and what was left out and why."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def find(wanted: Iterable[str], folder: Path | str, *, whatever_is_there: bool = False) -> dict[str, DataSetFiles]:
    """The files of each data set in `wanted` below `folder`; InputError where one has none, or a file has two owners.

    whatever_is_there: leave out data sets without a file instead; InputError where none of them has one.
    `folder` may also be a file: it is then looked at as the only one, and belongs to the data set that alone is wanted.
    """
    data_sets = [get(name) for name in wanted]
    root = Path(folder)
    if not root.exists():
        raise InputError(f"{root}: there is no such folder; give the folder of the data files with --data-dir")
    candidates = [root] if root.is_file() else data_files(root)
    files: dict[str, list[Path]] = {data_set.name: [] for data_set in data_sets}
    notes: dict[str, list[str]] = {data_set.name: [] for data_set in data_sets}
    for path in candidates:
        relative = PurePath(path.name) if root.is_file() else path.relative_to(root)
        try:
            sample = head(path)
            if len(sample) < 2 and not any(_recognises(data_set, sample, relative) for data_set in data_sets):
                sample = long_head(path)  # perhaps its first record is long, or cut off
        except InputError as error:
            if root.is_file() or any(data_set.path_hint.search(relative.as_posix()) for data_set in data_sets):
                raise
            for name in notes:
                notes[name].append(f"cannot be looked into: {error}")
            continue
        owners: list[DataSet] = []
        for data_set in data_sets:
            try:
                if data_set.recognise(sample, relative) is not None:
                    owners.append(data_set)
            except LookAlike as look_alike:
                notes[data_set.name].append(f"{relative}: {look_alike}")
        if owners and not (root.is_file() and len(data_sets) == 1):
            owners = _only_owner(path, sample, relative)
        for data_set in owners:
            if data_set.name in files:
                files[data_set.name].append(path)
    if whatever_is_there and any(files.values()):
        data_sets = [data_set for data_set in data_sets if files[data_set.name]]
        files = {data_set.name: files[data_set.name] for data_set in data_sets}
    elif whatever_is_there:
        forms = "; ".join(f"{data_set.name}: {data_set.expects}" for data_set in data_sets)
        raise InputError(f"{root}: no file of a known data set among {len(candidates)} data files; expected {forms}")
    for data_set in data_sets:
        if not files[data_set.name]:
            left_out = "".join(f"; left out: {note}" for note in notes[data_set.name][:3])
            raise InputError(
                f"{root}: no {data_set.title} file among {len(candidates)} data files{left_out}; "
                f"expected {data_set.expects}"
            )
    return {name: DataSetFiles(tuple(files[name]), tuple(notes[name])) for name in files}


def _only_owner(path: Path, sample: list[Any], relative: PurePath) -> list[DataSet]:
    """The one registered data set that a file belongs to, of those that recognise it; InputError where two are left."""
    owners = [data_set for data_set in DATA_SETS.all().values() if _recognises(data_set, sample, relative, False)]
    general = {name for data_set in owners for name in data_set.special_case_of}
    owners = [data_set for data_set in owners if data_set.name not in general]
    if len(owners) > 1:
        both = " and ".join(f"{data_set.title} ({data_set.name})" for data_set in owners)
        raise InputError(
            f"{path}: has the form of {both}, and only one of them can own it; move it out of the folder, or give this "
            "file alone and the one data set that it belongs to"
        )
    return owners


def _recognises(data_set: DataSet, sample: list[Any], path: PurePath, alike: bool = True) -> bool:
    """alike: what is said of a close relative."""
    try:
        return data_set.recognise(sample, path) is not None
    except LookAlike:
        return alike


def data_files(root: Path, kind: Callable[[Path], str] = bare_suffix) -> list[Path]:
    """Every file below `root` of a `kind` (by default, with the name of a data file), by path; links inside the folder
    are taken once."""
    inside = root.resolve()
    found: dict[Path, Path] = {}
    for current, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(current)
        for name in folders:
            _refuse_leaving(here / name, inside)
        for name in sorted(names):
            path = here / name
            if kind(path) and not name.startswith("."):
                _refuse_leaving(path, inside)
                if path.is_file():
                    resolved = path.resolve()
                    if resolved not in found or found[resolved].is_symlink():
                        found[resolved] = path
    return sorted(found.values(), key=lambda path: path.relative_to(root).as_posix())


def _refuse_leaving(path: Path, inside: Path) -> None:
    if not path.is_symlink():
        return
    target = path.resolve()
    if not target.is_relative_to(inside):
        raise InputError(f"{path}: is a symbolic link that leaves {inside.name or inside}/; put the file itself there")
    if not target.exists():
        raise InputError(f"{path}: is a symbolic link to nothing; remove it, or put the file there")
