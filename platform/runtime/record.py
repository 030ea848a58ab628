"""`run.json`: what a run of any command says of itself, in one form that one function reads.

A record stands in the folder of its run from the moment the run begins; its `status` is `unfinished` until everything
in `files` is written. It holds what is needed to make the run again and to tell it from another one, and nothing that
depends on the clock. What only one command knows is in `details`; every other section means the same for all.

Promises: what `RunRecord` is written from, `read_run` gives back; a record that is damaged, is not of mplat or was made
by another version of mplat is an error of one sentence. It does not look at the files that a record names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..core.config import Config
from ..core.errors import InputError, UsageError
from ..core.json_files import read_json

RUN_RECORD = "run.json"
FORMAT = 1
_DEPTH = 4  # how far below a folder runs are looked for


class ModelPart(Config):
    """The model of a run, by what it holds."""

    name: str
    """As it was asked for: a shipped model, a folder, a hub id, or the architecture of one to be trained."""
    arch: str
    parameters: int
    dtype: str
    """Of the weights."""
    digest: str | None
    """sha256 of weights and shape; null before there are any."""


class DataPart(Config):
    """What a run reads, by what it holds."""

    digest: str
    counts: dict[str, int] = {}
    """How many of each kind are used, such as questions in development and in test."""
    left_out: dict[str, int] = {}
    """Why something is not used -> how much of it."""


class Backend(Config):
    """Where the numbers come from. Nothing of `session` changes a result."""

    device: str
    dtype: str
    """Of the arithmetic."""
    kernels: dict[str, str]
    """Operation -> backend."""
    threads: int | None = None
    """That one worker computes with."""
    session: dict[str, Any] | None = None
    """Where the work is done; null where a command knows one place only."""


class RunRecord(Config):
    """Everything that run.json says. A section that has no meaning for a command is null or empty."""

    format: Literal[1] = FORMAT
    command: str
    status: Literal["unfinished", "done"] = "unfinished"
    config: dict[str, Any]
    """Resolved: every key, defaults written out."""
    model: ModelPart | None = None
    data: DataPart | None = None
    seeds: dict[str, int] = {}
    plan: dict[str, Any] = {}
    """What follows from config, model and data: another plan is another run."""
    backend: Backend | None = None
    code: str = ""
    """sha256 of the sources of mplat."""
    versions: dict[str, str] = {}
    counts: dict[str, int] = {}
    """What came out: rows by their status, steps done."""
    files: dict[str, str] = {}
    """Results: name below the folder -> sha256."""
    details: dict[str, Any] = {}
    """What only this command has to say."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunRecord:
        """A record of plain values, equal to what will be read: its lists are lists and not tuples."""
        return cls.model_validate(cls.model_validate(values).model_dump(mode="json"))


def read_run(place: Path) -> RunRecord:
    """The record of the run in the folder `place`, or in the file `place`.

    Raises InputError where there is none, or where it is damaged or of another version of mplat; UsageError where it is
    not of mplat.
    """
    path = place / RUN_RECORD if place.is_dir() else place
    values = record_values(path)
    if values is None:
        raise InputError(f"{path}: there is no such run")
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path} was written by another version of mplat (format {values.get('format', 'none')}, this one reads "
            f"{FORMAT}); run its command again with --fresh"
        )
    try:
        return RunRecord.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place_in_it = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is damaged ({place_in_it}: {first['msg'].lower()}); run its command again with --fresh"
        ) from None


def record_values(path: Path) -> dict[str, Any] | None:
    """The plain values of the record at `path`, of whatever version; None where there is no file. Raises InputError
    where it is damaged, UsageError where it is not of mplat."""
    if not path.exists():
        return None
    values = read_json(path, advice="start anew with --fresh, or choose another folder")
    if not isinstance(values, dict) or not isinstance(values.get("command"), str):
        raise UsageError(f"{path.parent} holds a {RUN_RECORD} that is not of mplat; choose another folder")
    return values


def list_runs(root: Path, *, beside: str = "", depth: int = _DEPTH) -> Iterator[Path]:
    """Every record in and below `root`, in the order of names; hidden folders and links are not followed.

    beside: further files to list, by the end of their names. Raises InputError where a folder cannot be looked into.
    """
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"{root}: cannot be looked into ({error.strerror}); change its permissions") from error
    there = [entry for entry in entries if not entry.name.startswith(".")]
    yield from (entry for entry in there if entry.name == RUN_RECORD or entry.name.endswith(f".{RUN_RECORD}"))
    yield from (entry for entry in there if beside and entry.name.endswith(beside))
    for entry in there if depth else ():
        if entry.is_dir() and not entry.is_symlink():
            yield from list_runs(entry, beside=beside, depth=depth - 1)
