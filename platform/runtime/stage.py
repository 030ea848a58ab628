"""What a run of any command is, and how it tells what it does."""

from __future__ import annotations

from .table_job import Progress


class Observer:
    """What a run tells while it works. Every method does nothing here; a console or a test overrides some."""

    def say(self, text: str) -> None:
        """A sentence about what is going on."""

    def warn(self, text: str) -> None:
        """Something the reader must know to trust the result."""

    def begin(self, part: str, detail: str = "") -> None:
        """A named part of the run, such as a stage or an analysis, starts."""

    def progress(self, progress: Progress) -> None:
        """How far a job of the runtime is."""

    def end(self, part: str, outcome: str, seconds: float) -> None:
        """The part is done: what came out in a few words, and how long it took."""
