"""The one observer of a command: what a run tells, shown through the command's output."""

from __future__ import annotations

from contextlib import ExitStack

from ...core.plain_text import duration
from ...runtime.stage import Observer
from ...runtime.table_job import Progress as JobProgress
from .output import Output, Progress


class Console(Observer):
    """Shows sentences, parts and jobs as they come; `unit` is what the jobs count. Used as a context manager."""

    def __init__(self, output: Output, unit: str) -> None:
        self._output, self._unit = output, unit
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
        if detail:
            self._output.say(f"{part}: {detail}")
        else:
            self._output.detail(part)

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
        took = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
        self._output.say(f"{part}: {outcome} ({took})")

    def _begin(self, job: JobProgress) -> None:
        left = job.rows - job.rows_done
        if left:
            there = f" ({job.rows_done} are there from an earlier run)" if job.rows_done else ""
            shown = self._output.progress(f"{job.name}{there}", left, self._unit, brief=self._in_part)
            self._shown = self._stack.enter_context(shown)
        elif job.resumed_shards and not self._in_part:
            self._output.say(f"{job.name}: all {job.rows} {self._unit} are there from an earlier run")

    def _close(self) -> None:
        self._stack.close()
        self._name, self._done, self._shown = "", 0, None
