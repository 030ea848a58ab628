"""Stopping a run from outside without losing it.

While the context is open, SIGINT (Ctrl-C) and SIGTERM only set a flag that the loop reads between steps; the loop
saves a checkpoint and raises. A second Ctrl-C stops at once, without saving. The former handlers come back on exit.
Outside the main thread, where Python allows no handlers, the flag is never set.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..core.errors import StoppedEarly


class Stopped(StoppedEarly):
    """A signal ended the run with its state saved; `resume_command` continues it."""

    def __init__(self, message: str, resume_command: str) -> None:
        super().__init__(message)
        self.resume_command = resume_command


class Interrupted(Stopped):
    """Ctrl-C: the command ends with 130."""

    exit_code = 130


class StopFlag:
    """The signal that asked for a stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def error(self, message: str, resume_command: str) -> StoppedEarly:
        """The exception that ends the run, with the command that continues it."""
        return (Interrupted if self.signal == signal.SIGINT else Stopped)(message, resume_command)


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Yields the flag; see the module's docstring."""
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal = signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
