"""Where a run begins: at step 0, or at a checkpoint of its own or of another run."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError, UsageError
from ..core.observer import Observer
from . import checkpoint
from .run_folder import RunFolder


def holds_a_run(folder: RunFolder) -> str:
    """Why a run that is to resume from nothing cannot be in `folder`."""
    return (
        f"--resume never, but {folder.path} holds a run with checkpoints; choose another --out, "
        "or start anew with --fresh, which deletes that run"
    )


def starting_checkpoint(folder: RunFolder, resume: str, observer: Observer) -> Path | None:
    """The checkpoint that `resume` asks for, or None to start at step 0.

    Another run's folder says where a new run starts. If this run has begun, the same command continues it.
    """
    if resume in ("auto", "never"):
        latest = checkpoint.latest(folder.checkpoints, observer.warn)
        if latest is not None and resume == "never":
            raise UsageError(holds_a_run(folder))
        return latest
    path = Path(resume)
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if folder.checkpoints.resolve() not in (path.resolve(), path.resolve().parent):
        own = checkpoint.latest(folder.checkpoints, observer.warn)
        if own is not None:
            observer.say(f"{folder.path} has begun already, so it is continued, and --resume {resume} is passed over")
            return own
    latest = path if (path / "manifest.json").is_file() else checkpoint.latest(path, observer.warn)
    if latest is None:
        raise InputError(
            f"--resume {resume}: no checkpoint there; give a run folder or a step-* folder, or auto or never"
        )
    return latest
