"""The signals by which a program is asked to end: SIGINT, SIGTERM, and SIGHUP, which a closed terminal sends.

`nohup` has SIGHUP ignored in what it starts, and ignored it stays.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from typing import Any, TextIO


def end_signals() -> tuple[signal.Signals, ...]:
    """Those to be handled in this process."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) + (() if ignored else (signal.SIGHUP,))


def leave_terminal() -> None:
    """Where the terminal is closed, what is still said goes nowhere: each word would be an error, in the middle of what
    is being saved."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # a terminal that is closed no longer says that it is one
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def guarded(stream: Any) -> Any:
    """A stream to a terminal that may be closed while it is written to; any other, and none at all, as it is."""
    return _OnTerminal(stream) if stream is not None and stream.isatty() else stream


class _OnTerminal:
    """A stream to a terminal. What it is told after the terminal was closed goes nowhere: the error may come before the
    signal does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a file."""
        try:
            return self._stream.write(text)
        except OSError as error:
            _lost(error)
            return len(text)

    def flush(self) -> None:
        """As of a file."""
        try:
            self._stream.flush()
        except OSError as error:
            _lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lost(error: OSError) -> None:
    if error.errno != errno.EIO:
        raise error
    leave_terminal()
