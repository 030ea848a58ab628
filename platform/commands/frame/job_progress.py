"""The jobs of the runtime as progress of a command: one line for each, and what came from an earlier run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .output import Output, Progress

if TYPE_CHECKING:
    from ...runtime import Progress as JobProgress


class JobCounter:
    """Shows the jobs of the runtime, one after the other, as progress of the command; `unit` is what they count."""

    def __init__(self, output: Output, stack: ExitStack, unit: str) -> None:
        self._output, self._stack, self._unit = output, stack, unit
        self._shown: tuple[str, int, Progress] | None = None  # job, answers shown, where

    def __call__(self, job: JobProgress) -> None:
        if job.note:
            self._output.warn(job.note)
        if self._shown is None or self._shown[0] != job.name:
            self._stack.close()
            self._shown = None
            if job.rows_done < job.rows:
                there = f" ({job.rows_done} are there from an earlier run)" if job.rows_done else ""
                progress = self._output.progress(f"{job.name}{there}", job.rows - job.rows_done, self._unit)
                self._shown = (job.name, job.rows_done, self._stack.enter_context(progress))
            elif job.resumed_shards:
                self._output.say(f"{job.name}: all {job.rows} {self._unit} are there from an earlier run")
            return
        name, done, progress = self._shown
        progress.advance(job.rows_done - done)
        self._shown = (name, job.rows_done, progress)
        if job.shards_done == job.shards:
            self._stack.close()
