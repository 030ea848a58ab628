"""The folder of one training run: what lies where, who may write, and whether it may be continued.

    config.yaml      resolved configuration; `mplat train config.yaml --out FOLDER` continues the run
    run.json         configuration, versions, digests, seeds, machine choices, outcome
    log.jsonl        metrics         loss_curve.png   drawn at the end
    checkpoints/     step-*/         model/           the trained model as a Hugging Face folder
    data/            tokenised text, where the source needs it

One process writes at a time: a lock on `.lock` is held by the operating system and ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..core.config import dump_config
from ..core.errors import InputError, UsageError
from ..core.folders import earlier_run, refuse_other_settings
from .train_config import TrainConfig, differing_fields


class RunFolder:
    """Paths of a run and the checks before it is written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.run = path / "run.json"
        self.log = path / "log.jsonl"
        self.curve = path / "loss_curve.png"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.data = path / "data"

    @property
    def continue_command(self) -> str:
        """The exact command that continues this run."""
        return f"mplat train {shlex.quote(str(self.config))} --out {shlex.quote(str(self.path))}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and hold its lock. Raises UsageError where another process holds it, or where the folder
        holds a run of another command."""
        with suppress(InputError):  # damage of its own record is for check_same_run to report, and for --fresh to end
            earlier_run(self.path, "train")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"--out {self.path}: cannot be used as a folder ({error.strerror}); choose another one"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise UsageError(
                    f"--out {self.path} is locked by {file.read().strip() or 'another process'}; "
                    "wait for it, or choose another folder"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def check_same_run(self, config: TrainConfig, *, fresh: bool = False) -> None:
        """Raises UsageError if the folder holds a run of another command or, without `fresh`, one with another
        configuration."""
        earlier = earlier_run(self.path, "train", fresh=fresh)
        if earlier is None or fresh:
            return
        weights = f" (with --resume {shlex.quote(str(self.path))} to go on from its weights)" if self._begun() else ""
        refuse_other_settings(self.path, "train", differing_fields(config, earlier["config"]), hint=weights)

    def _begun(self) -> bool:
        return any(self.checkpoints.glob("step-*/manifest.json"))

    def clear(self) -> None:
        """Delete what a former run of `mplat train` wrote; tokenised data, and a folder without such a run, stay."""
        earlier_run(self.path, "train", fresh=True)
        if not (self.run.is_file() or self._begun()):
            return
        for path in (self.checkpoints, self.model):
            shutil.rmtree(path, ignore_errors=not path.exists())
        for path in (self.run, self.config, self.log, self.curve):
            path.unlink(missing_ok=True)

    def write_config(self, config: TrainConfig) -> None:
        """config.yaml, complete: defaults written out."""
        self._replace(self.config, dump_config(config))

    def write_run(self, values: dict[str, Any]) -> None:
        """run.json."""
        self._replace(self.run, json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n")

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
