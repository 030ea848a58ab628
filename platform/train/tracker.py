"""Where the trackers of experiments register: what shows a run's numbers to people, besides its log.jsonl.

    @tracker("tensorboard")
    class TensorBoard: ...

A tracker is one file in `trackers` with a class of that decorator, which imports its package only when it is opened.
Numbers come as they stand in the log: `train/loss`, `eval/bits_per_byte/<set>`; what was not finite is not among them.
After a stop a run goes on from its last checkpoint, before steps that it has told already; a tracker sees to it that no
step appears twice, by dropping either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..core.errors import InputError, UsageError
from ..core.json_files import read_object
from ..core.registry import Registry
from ..core.whole_files import publish_bytes
from .train_config import TrainConfig


class TrackedRun:
    """The run that is shown. resumed_step: the last one whose numbers are in the log already, 0 for a new run.

    told_step: up to which trackers have been told, in this or an earlier process. settings: the run's configuration as
    plain JSON. Remembers in trackers.json what cannot be found out after a stop.
    """

    def __init__(self, config: TrainConfig, folder: Path, resumed_step: int, logged_step: int) -> None:
        self.folder, self.resumed_step = folder, resumed_step
        self.name, self.project = config.log.name or folder.resolve().name, config.log.project
        self.settings: Mapping[str, Any] = config.model_dump(mode="json")
        self._file = folder / "trackers.json"
        begun = resumed_step > 0 and self._file.exists()
        self._ids, told_step = _kept(self._file) if begun else ({}, 0)
        self.told_step = max(told_step, logged_step) if begun else 0
        if begun:
            self._remember()

    def known_as(self, tracker: str) -> str | None:
        """What `tracker` calls this run, if it has been shown there before."""
        return self._ids.get(tracker)

    def is_known_as(self, tracker: str, name: str) -> None:
        """Remember what `tracker` calls this run, so that it goes on there after a stop."""
        self._ids[tracker] = name
        self._remember()

    def _remember(self) -> None:
        kept = {"ids": self._ids, "told_step": self.told_step}
        publish_bytes((json.dumps(kept, indent=1) + "\n").encode(), self._file)


def _kept(path: Path) -> tuple[dict[str, str], int]:
    kept = read_object(path)
    ids, told_step = kept.get("ids"), kept.get("told_step")
    if (
        not isinstance(ids, dict)
        or not all(isinstance(name, str) for name in ids.values())
        or type(told_step) is not int
    ):
        raise InputError(f"{path}: does not say what trackers call this run; delete it, and they show it as a new one")
    return ids, told_step


class Tracker(Protocol):
    """One run at one tracker."""

    package: ClassVar[str]  # the package that it needs, as it is imported and as pip calls it

    def __init__(self, run: TrackedRun) -> None:
        """Begin to show `run`, or go on."""

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """The numbers and texts of a line of the log; a step has several lines."""

    def close(self) -> None:
        """All has been written."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "tracker", __name__, ".trackers")
tracker = TRACKERS.itself


def require_trackers(config: TrainConfig) -> None:
    """Raise UsageError for a tracker that does not exist or whose package is not installed."""
    for name in config.log.trackers:
        package = TRACKERS.get(name).package
        if find_spec(package) is None:
            raise UsageError(
                f"log.trackers has {name}, whose package is not installed: pip install {package}; "
                f"or leave it out, as --set log.trackers=[] does"
            )
