"""SIGINT, SIGTERM and SIGHUP as a request: the work looks at it between steps and ends in order.

The first signal sets the request; a second one does not wait and raises where the program is. Only the main thread can
receive signals: elsewhere the request never comes, and the signals keep the meaning they have.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ..core.end_signals import end_signals, leave_terminal
from ..core.errors import StoppedEarly


class StopRequest:
    """True once a stop was asked for; a context manager that puts the handlers back."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in end_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def error(self, text: str, resume_command: str | None = None) -> BaseException:
        """What to raise for the request: KeyboardInterrupt (exit 130) for SIGINT, else StoppedEarly (75).

        resume_command: what continues the work, where that is not the command that was typed.
        """
        error = KeyboardInterrupt(text) if self.signal == signal.SIGINT else StoppedEarly(text)
        error.resume_command = resume_command  # type: ignore[union-attr]
        return error

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again:
            raise self.error("stopped at once by a second signal; run the same command again to continue")
