"""The signals by which a program is asked to end: SIGINT, SIGTERM, and SIGHUP, which a closed terminal sends.

`nohup` has SIGHUP ignored in what it starts, and ignored it stays.
"""

from __future__ import annotations

import os
import signal
import stat


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
