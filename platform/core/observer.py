"""What a run tells while it works, to whoever watches: a console, a test, a notebook. Watching changes no result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.table_job import Progress


class Observer:
    """What a run tells while it works. Every method does nothing here; whoever watches overrides some."""

    def say(self, text: str) -> None:
        """A sentence about what is going on."""

    def warn(self, text: str) -> None:
        """Something the reader must know to trust the result."""

    def begin(self, part: str, detail: str = "") -> None:
        """A named part of the run, such as a stage or an analysis, starts."""

    def progress(self, progress: Progress) -> None:
        """How far a job of the runtime is."""

    def report(self, part: str, values: Mapping[str, float | None]) -> None:
        """Numbers from inside a part that is going on, such as the loss of a training step."""

    def end(self, part: str, outcome: str, seconds: float) -> None:
        """The part is done: what came out in a few words, and how long it took."""


class WithoutParts(Observer):
    """Passes on how far jobs are and what must be known, for a run that is itself a part of another one."""

    def __init__(self, observer: Observer) -> None:
        self.warn = observer.warn  # type: ignore[method-assign]
        self.progress = observer.progress  # type: ignore[method-assign]
