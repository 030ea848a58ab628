"""The options that commands share, each written down once.

A command whose options come out of a configuration has all of them, without those that mean nothing to it. Any other
one takes what it needs: `def models(as_json: Json = False) -> None: ...`. Values are checked here as far as that needs
no data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import UsageError
from ...core.option import DEVICE, SEED

MAX_SEED = 2**63 - 1  # the largest seed that torch, numpy and Python all take


def _check_address(value: str) -> str:
    if value in ("none", "local", "auto"):
        return value
    host, _, port = value.removeprefix("ray://").rpartition(":")
    if re.fullmatch(r"[^\s:/]+|\[[0-9a-fA-F:]+\]", host) and port.isdecimal() and 0 < int(port) < 65536:
        return value
    raise UsageError(f"--address {value!r}: use none (this process), local (a private Ray), auto (the cluster of "
                     "RAY_ADDRESS, else a private Ray) or HOST:PORT")  # fmt: skip


def _check_seed(value: int) -> int:
    if not 0 <= value <= MAX_SEED:
        raise UsageError(f"--seed {value}: a seed is a whole number from 0 to {MAX_SEED}")
    return value


def _check_actors(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"--actors {value}: give at least 1 worker, or leave it out for as many as fit")
    return value


def _check_threads(value: int) -> int:
    if value < 1:
        raise UsageError(f"--threads-per-actor {value}: give at least 1")
    return value


def _check_gpus(value: float | None) -> float | None:
    if value is not None and not (0 <= value <= 1 or (value > 1 and float(value).is_integer())):
        raise UsageError(f"--gpus-per-actor {value:g}: give a share of one GPU, such as 0.5, or a whole number of them")
    return value


def as_path(text: str) -> Path:
    """An argument as a path. Empty, from a shell variable without a value perhaps, it would mean this very folder."""
    if not text.strip():
        raise typer.BadParameter("the path is empty")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):  # Path would make a folder "s3:" here
        raise typer.BadParameter(f"{text} is an address, not a path; mount the storage and name the folder")
    return Path(text)


Actors = Annotated[
    int | None, typer.Option("--actors", metavar="N", callback=_check_actors, help="Ray workers, at least 1.")
]
ThreadsPerActor = Annotated[
    int,
    typer.Option(
        "--threads-per-actor",
        metavar="N",
        callback=_check_threads,
        help="Processor threads that a worker computes with.",
    ),
]
GpusPerActor = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-actor",
        metavar="X",
        callback=_check_gpus,
        help="GPUs of a Ray worker, also a share such as 0.5; default: 1 where --device is a GPU, else 0.",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="WHERE",
        callback=_check_address,
        help="Where the work is done: none (this process), local (a private Ray), auto (the cluster of RAY_ADDRESS, "
        "else this process for small work and a private Ray for more) or HOST:PORT.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", parser=as_path, help="YAML file with settings of this command."),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the configuration (a.b=c); may be repeated."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", parser=as_path, help="Folder for the results.")]
Seed = Annotated[int, typer.Option("--seed", metavar=SEED.metavar, help=SEED.help, callback=_check_seed)]
Device = Annotated[str, typer.Option("--device", metavar=DEVICE.metavar, help=DEVICE.help)]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", parser=as_path, help="Cache folder; default: MPLAT_CACHE, else ~/.cache/mplat."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only warnings and the result.")]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="More detail; errors come with their traceback."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it would cost; do nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: delete this command's earlier run first.")]


class Shared:
    """The shared options of a command with a configuration, in the order of its help, and their defaults."""

    actors: Actors = None
    threads_per_actor: ThreadsPerActor = 1
    gpus_per_actor: GpusPerActor = None
    address: Address = "auto"
    config: ConfigFile = None
    set: Overrides = []
    out: Out = None
    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = 0
    dry_run: DryRun = False
    fresh: Fresh = False

    def __init__(self, **typed: object) -> None:
        for name, value in typed.items():
            setattr(self, name, value)
