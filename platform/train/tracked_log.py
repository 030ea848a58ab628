"""The metrics log and the trackers beside it: one place to write to, of which only log.jsonl can stop a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.observer import Observer
from .log import MetricsLog, read_log
from .tracker import TRACKERS, TrackedRun, Tracker
from .train_config import TrainConfig


class TrackedLog(MetricsLog):
    """Writes each line to `folder`/log.jsonl and to the trackers of `config`.

    A tracker that fails is warned of once and left alone from then on.
    """

    def __init__(self, config: TrainConfig, folder: Path, resume_step: int, observer: Observer) -> None:
        path = folder / "log.jsonl"
        logged = max((line["step"] for line in read_log(path)), default=0) if path.exists() else 0
        super().__init__(path, resume_step, observer.warn)
        self._observer = observer
        self._trackers: dict[str, Tracker] = {}
        run = TrackedRun(config, folder, resume_step, logged)
        for each in config.log.trackers:
            self._try(each, lambda each=each: self._trackers.update({each: TRACKERS.get(each)(run)}))

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line, as `MetricsLog`."""
        super().write(kind, step, values)
        numbers = {f"{kind}/{name}": float(v) for name, v in values.items() if _is_number(v)}
        texts = {f"{kind}/{name}": v for name, v in values.items() if isinstance(v, str)}
        for name, each in list(self._trackers.items()):
            self._try(name, lambda each=each: each.write(step, numbers, texts))

    def close(self) -> None:
        super().close()
        for name, each in list(self._trackers.items()):
            self._try(name, each.close)

    def _try(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever a foreign package raises, training is worth more than its picture
            self._trackers.pop(name, None)
            reason = str(error) or type(error).__name__
            self._observer.warn(f"{name} fails and shows nothing more of this run; log.jsonl has it all: {reason}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
