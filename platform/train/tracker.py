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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..core.errors import UsageError
from ..core.registry import Registry
from ..core.whole_files import publish_bytes
from .train_config import TrainConfig


@dataclass(frozen=True)
class TrackedRun:
    """The run that is shown. settings: its configuration as plain JSON."""

    folder: Path
    name: str
    project: str
    resumed_step: int  # the last step whose numbers stand in the log already; 0: a new run
    settings: Mapping[str, Any]

    @property
    def _ids(self) -> Path:
        return self.folder / "trackers.json"

    def known_as(self, tracker: str) -> str | None:
        """What `tracker` calls this run, if it has been shown there before."""
        ids = json.loads(self._ids.read_text(encoding="utf-8")) if self.resumed_step and self._ids.exists() else {}
        return ids.get(tracker)

    def is_known_as(self, tracker: str, name: str) -> None:
        """Remember what `tracker` calls this run, so that it goes on there after a stop."""
        ids = json.loads(self._ids.read_text(encoding="utf-8")) if self._ids.exists() else {}
        publish_bytes((json.dumps(ids | {tracker: name}, indent=1) + "\n").encode(), self._ids)


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
