"""The pool without Ray: one worker, in this process, no threads.

It gives the same tables as any number of Ray actors, because shards are planned from the data and the worker gets the
same number of torch threads. What it cannot do is survive the worker: a crash here is a crash of the driver, and the
ledger is what remains.
"""

from __future__ import annotations

import itertools
import traceback
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..core.errors import UsageError
from .pool import Failed, Outcome, Worker, WorkerFactory, answered
from .threads import ThreadLimit

_ACTOR = 0


class InProcessPool:
    """Runs one payload in each `wait`."""

    depth = 1
    trouble = ""

    def __init__(self, factory: WorkerFactory, *, threads: int = 1) -> None:
        """Build the worker; its own error, if it raises one, is the caller's."""
        self._threads = ThreadLimit(threads)
        try:
            self._worker: Worker | None = factory.build()
            self._threads.apply()  # now that the worker has imported what it computes with
        except BaseException:
            self._threads.restore()
            raise
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self._tickets = itertools.count()

    def actors(self) -> Sequence[int]:
        """One actor, always up."""
        return (_ACTOR,)

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        """Keep `payload` for the next `wait`."""
        if actor != _ACTOR:
            raise UsageError(f"actor {actor} does not exist; the in-process pool has actor {_ACTOR} alone")
        ticket = next(self._tickets)
        self._waiting.append((ticket, payload))
        return ticket

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Run the oldest payload to its end, however long that takes."""
        if not self._waiting or self._worker is None:
            return []
        ticket, payload = self._waiting.popleft()
        try:
            return [answered(ticket, self._worker.run(payload))]
        except Exception as error:  # whatever a worker raises is the scheduler's to judge
            return [Failed(ticket, type(error).__name__, str(error), traceback.format_exc(), error)]

    def replace(self, actor: int) -> None:
        """There is nothing to replace a process with itself."""
        raise UsageError("the in-process pool cannot lose its worker; this is a bug in the caller")

    def close(self) -> None:
        """Drop the worker and give this process its threads back."""
        self._worker = None
        self._threads.restore()
