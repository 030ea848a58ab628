"""The folders mplat writes to: where the cache is, and whose run a folder of results holds.

Results go where `--out` says; only the cache has a place of its own, so that one run finds what another has computed.
A folder of results holds one run of one command. Its run.json says which, and every command that writes such a folder
asks here first: a run of another command is never written over, one with other settings only with `--fresh`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, UsageError
from .json_files import Plain

CACHE_VARIABLE = "MPLAT_CACHE"
RUN_RECORD = "run.json"


def cache_folder() -> Path:
    """The folder named by MPLAT_CACHE, else `mplat` in the user's cache folder. It need not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "mplat"


def earlier_run(folder: Path, command: str, *, fresh: bool = False) -> dict[str, Any] | None:
    """What run.json in `folder` says of an earlier run of `mplat COMMAND`; None where there is none.

    Raises UsageError where the folder holds anything else, which `--fresh` does not replace either, and InputError
    where run.json is damaged; `fresh` passes over damage.
    """
    path = folder / RUN_RECORD
    try:
        record: Plain = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if fresh:
            return None
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} is damaged ({reason}); start anew with --fresh, or choose another --out") from error
    owner = record.get("command") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(owner, str):
        raise UsageError(f"--out {folder} holds a {RUN_RECORD} that is not of mplat; choose another --out")
    if owner != command:
        raise UsageError(f"--out {folder} holds a run of `mplat {owner}`; choose another --out")
    if not isinstance(record.get("config"), dict):
        if fresh:
            return None
        raise InputError(f"{path} is damaged (it has no config); start anew with --fresh, or choose another --out")
    return record


def refuse_other_settings(folder: Path, command: str, differing: Sequence[str], *, hint: str = "") -> None:
    """Raise UsageError where an earlier run of `command` in `folder` differs in anything; `hint` follows "--out"."""
    if differing:
        names = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise UsageError(
            f"--out {folder} holds a run of `mplat {command}` with another configuration (differs in {names}); "
            f"choose another --out{hint}, or start anew with --fresh, which deletes that run"
        )
