"""Ray actors between two pools: a command has many tables, and a process that has imported torch and
loaded the model need not be started again for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class _Idle:
    handle: Any
    shape: tuple[int, float]  # threads, gpus


class IdleActors:
    """Those with nothing to do, which hold their CPUs until `end`."""

    def __init__(self) -> None:
        self._idle: list[_Idle] = []

    def take(self, threads: int, gpus: float) -> Any | None:
        """One with this many threads and GPUs, or None. Those with other numbers are ended: they hold what the new ones
        need."""
        self.end(but=(threads, gpus))
        return self._idle.pop(0).handle if self._idle else None

    def give(self, handle: Any, threads: int, gpus: float) -> None:
        """Keep an actor that has nothing to do."""
        self._idle.append(_Idle(handle, (threads, gpus)))

    def end(self, *, but: tuple[int, float] | None = None) -> None:
        """End all, or all but those of one shape."""
        kept = [actor for actor in self._idle if actor.shape == but]
        for actor in self._idle:
            if actor.shape != but and ray.is_initialized():  # else they have ended with it
                ray.kill(actor.handle, no_restart=True)
        self._idle = kept


#: Of this process, which has one Ray at a time: actors kept for one session must not keep another from their CPUs.
IDLE = IdleActors()
