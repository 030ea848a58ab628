"""The one observer of a command: what a run tells, shown through the command's output."""

from __future__ import annotations

from contextlib import ExitStack

from ...core.observer import Observer
from ...core.plain_text import short_duration
from ...runtime.table_job import Progress as JobProgress
from .output import Output, Progress


class Console(Observer):
    """Shows sentences, parts and jobs as they come. Used as a context manager.

    unit: what jobs count; parts: how many parts the run has, which are then numbered.
    """

    def __init__(self, output: Output, unit: str, parts: int = 0) -> None:
        self._output, self._unit, self._parts, self._number = output, unit, parts, 0
        self._stack = ExitStack()  # holds the progress that is shown
        self._name, self._done = "", 0
        self._shown: Progress | None = None
        self._in_part = False

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def say(self, text: str) -> None:
        self._output.say(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def begin(self, part: str, detail: str = "") -> None:
        self._in_part = True
        self._number += 1
        if detail:
            self._output.say(f"{self._numbered(part)}: {detail}")
        else:
            self._output.detail(self._numbered(part))

    def progress(self, progress: JobProgress) -> None:
        if progress.note:
            self._output.warn(progress.note)
        if progress.name != self._name or progress.rows_done < self._done:  # a part's next phase counts from 0
            self._close()
            self._name = progress.name
            self._begin(progress)
        elif self._shown is not None:
            self._shown.advance(progress.rows_done - self._done, progress.detail or None)
        self._done = progress.rows_done
        if progress.rows_done == progress.rows:
            self._stack.close()
            self._shown = None

    def end(self, part: str, outcome: str, seconds: float) -> None:
        self._close()
        self._in_part = False
        took = short_duration(seconds)
        self._output.say(f"{self._numbered(part)}: {outcome} ({took})")

    def _numbered(self, part: str) -> str:
        return f"{self._number}/{self._parts} {part}" if self._parts else part

    def _begin(self, job: JobProgress) -> None:
        earlier = job.rows_done if job.resumed_shards else 0
        if earlier < job.rows:
            there = f" ({earlier} are there from an earlier run)" if earlier else ""
            shown = self._output.progress(f"{job.name}{there}", job.rows - earlier, self._unit, brief=self._in_part)
            self._shown = self._stack.enter_context(shown)
            self._shown.advance(job.rows_done - earlier, job.detail or None)
        elif job.resumed_shards and not self._in_part:
            self._output.say(f"{job.name}: all {job.rows} {self._unit} are there from an earlier run")

    def _close(self) -> None:
        self._stack.close()
        self._name, self._done, self._shown = "", 0, None
