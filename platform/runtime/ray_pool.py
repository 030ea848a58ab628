"""A pool of Ray actors: starts them, gives them payloads, and tells results, raised errors and deaths apart.

Actors of an earlier pool of the same connection that have nothing to do are given the new worker; what has nothing to
do when a pool is closed is kept for the next.

Ray retries nothing here (`max_restarts=0`, `max_task_retries=0`): one owner of the retry policy, the scheduler.
Actors come up in the background and appear in `actors` once their worker is built; a worker that cannot be built is
one error for the whole pool. What is wrong with the cluster itself (no object store, no disk, no authentication) is
ClusterError.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions as ray_errors

from ..core.errors import ClusterError
from .idle_actors import IdleActors
from .installation import installation
from .pool import Failed, Lost, Outcome, WorkerFactory, answered, error_from
from .preflight import Ready
from .ray_actor import ShardActor
from .ray_nodes import Nodes

# The process, its machine or its answer is gone: the work can be done elsewhere.
_GONE = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.OutOfMemoryError,
)
# The machine has no room for a payload or an answer, on either side.
_FULL = (ray_errors.ObjectStoreFullError, ray_errors.OutOfDiskError)
_START_ATTEMPTS = 3  # a worker whose process dies while it is built, one after the other
_VERDICT_S = 1.5  # a machine's processes do not all end in the same instant
_LOOK_S = 5.0  # how often a pool that may grow looks for room


@dataclass
class _Actor:
    handle: Any
    used: bool  # by an earlier pool
    node: str = ""
    up: bool = False


@dataclass
class _Death:
    """Of an actor, whose reason is not known yet."""

    actor: int
    node: str
    reason: str
    tickets: list[int]
    since: float


class RayPool:
    """Up to `size` actors with the same worker; where `most` is given, more once it says that more find room."""

    depth = 2

    def __init__(
        self,
        factory: WorkerFactory,
        *,
        size: int,
        threads: int = 1,
        gpus: float = 0,
        idle: IdleActors | None = None,
        most: Callable[[], int] | None = None,
        ready: Ready | None = None,
    ) -> None:
        self._factory, self._threads, self._gpus = factory, threads, gpus
        self._idle, self._most, self._ready = idle, most, ready
        self._nodes, self._deaths = Nodes(), list[_Death]()
        self._looked = time.monotonic()
        self._numbers = itertools.count()
        self._tickets = itertools.count()
        self._actors: dict[int, _Actor] = {}
        self._starts: dict[Any, int] = {}  # reference of `build` -> actor
        self._work: dict[Any, tuple[int, int]] = {}  # reference of `run` -> (ticket, actor), in the order submitted
        self._deaths_at_start = 0
        self.descriptions: dict[int, dict[str, Any]] = {}  # of the actors that came up, for the record of the run
        for _ in range(size):
            self._start()

    @property
    def trouble(self) -> str:
        """See `Pool.trouble`: which machines went away."""
        return self._nodes.in_words()

    def actors(self) -> Sequence[int]:
        """Those that are up."""
        return [number for number, actor in self._actors.items() if actor.up]

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        """Queue `payload` on `actor`."""
        ticket = next(self._tickets)
        try:
            reference = self._actors[actor].handle.run.remote(payload)
        except _FULL as error:
            raise _trouble(error) from error
        self._work[reference] = (ticket, actor)
        return ticket

    def wait(self, timeout_s: float) -> list[Outcome]:
        """See `Pool.wait`. What a dead actor had comes back once it is known whether its machine is there."""
        self._grow()
        pending = [*self._starts, *self._work]
        if self._deaths:
            timeout_s = min(timeout_s, _VERDICT_S / 3)
        if not pending:
            time.sleep(timeout_s)
            return self._judged()
        ray.wait(pending, num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        outcomes: list[Outcome] = []
        dead: dict[int, str] = {}
        for reference in sorted(ready, key=pending.index):
            if reference in self._starts:
                self._started(reference)
                continue
            ticket, actor = self._work[reference]
            if actor in dead:
                continue
            try:
                outcomes.append(self._outcome(ticket, self._fetch(reference)))
                del self._work[reference]
            except _GONE as error:
                dead[actor] = _reason(error)
        for actor, reason in dead.items():
            outcomes.extend(self._bury(actor, reason))
        return [*outcomes, *self._judged()]

    def replace(self, actor: int) -> None:
        """End `actor` and start another."""
        self._end(actor)
        self._start()

    def close(self) -> None:
        """Keep the actors that have nothing to do for the next pool, and end all others."""
        busy = {actor for _, actor in self._work.values()}
        for number, actor in list(self._actors.items()):
            if self._idle is not None and actor.up and number not in busy:
                self._idle.give(self._actors.pop(number).handle, self._threads, self._gpus)
            else:
                self._end(number)
        self._starts.clear()
        self._work.clear()
        self._deaths.clear()

    def _start(self) -> None:
        handle = None if self._idle is None else self._idle.take(self._threads, self._gpus)
        used = handle is not None
        if handle is None:
            actor_class = ray.remote(ShardActor).options(
                num_cpus=self._threads,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            handle = actor_class.remote(self._threads, installation(gpu=self._gpus > 0), self._gpus)
        number = next(self._numbers)
        self._actors[number] = _Actor(handle, used)
        self._build(number)

    def _build(self, number: int) -> None:
        copies = () if self._ready is None else (self._ready.copies(),)
        build = self._actors[number].handle.build
        self._starts[build.remote(self._factory.target, dict(self._factory.kwargs), *copies)] = number

    def _started(self, reference: Any) -> None:
        number = self._starts.pop(reference)
        if number not in self._actors:
            return
        try:
            description = self._fetch(reference)
        except _GONE as error:
            if getattr(error, "actor_init_failed", False):  # raised before our own constructor: mplat is not there
                raise ClusterError(
                    f"a worker could not be made ({_reason(error)}); install the same mplat and Python on every node"
                ) from error
            used = self._actors[number].used  # it died while it was idle, and not of this worker
            self._end(number)
            time.sleep(_VERDICT_S)
            if used or self._nodes.newly_gone():  # nothing that speaks against the worker
                self._start()
                return
            self._deaths_at_start += 1
            if self._deaths_at_start >= _START_ATTEMPTS:
                raise ClusterError(
                    f"{self._deaths_at_start} workers died while they were being set up, the last with: "
                    f"{_reason(error)}; try fewer --actors or a smaller model"
                ) from error
            self._start()
            return
        failure = description if "kind" in description else description.pop("failure")
        if failure is not None:
            raise error_from(Failed(-1, **failure), where=f"{self._factory.target} could not be set up")
        if self._ready is not None and description.pop("lacks"):
            self._ready.repair(description["node"])
            self._build(number)
            return
        self._deaths_at_start = 0
        self._actors[number].node = description["node"]
        self._actors[number].up = True
        self.descriptions[number] = description

    def _bury(self, actor: int, reason: str) -> list[Outcome]:
        """What the dead `actor` finished before its end; what was lost, the oldest first, waits for the verdict."""
        finished: list[Outcome] = []
        lost: list[int] = []
        for reference, (ticket, owner) in list(self._work.items()):
            if owner != actor:
                continue
            del self._work[reference]
            try:
                finished.append(self._outcome(ticket, self._fetch(reference, timeout_s=1.0)))
            except (*_GONE, ray_errors.GetTimeoutError):
                lost.append(ticket)
        self._deaths.append(_Death(actor, self._actors[actor].node, reason, lost, time.monotonic()))
        self._end(actor)
        return finished

    def _judged(self) -> list[Outcome]:
        """What was lost with actors whose end is understood by now."""
        outcomes: list[Outcome] = []
        for death in [death for death in self._deaths if time.monotonic() - death.since >= _VERDICT_S]:
            self._deaths.remove(death)
            gone = self._nodes.is_gone(death.node)
            if not death.tickets:  # nobody hears of it, who would ask for another
                self._start()
            reason = f"node {self._nodes.name(death.node)} is gone" if gone else death.reason
            outcomes += [Lost(ticket, death.actor, reason, gone) for ticket in death.tickets]
        return outcomes

    def _grow(self) -> None:
        if self._most is None or time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        for _ in range(self._most() - len(self._actors)):
            self._start()

    def _end(self, actor: int) -> None:
        gone = self._actors.pop(actor, None)
        if gone is not None:
            ray.kill(gone.handle, no_restart=True)

    def _fetch(self, reference: Any, timeout_s: float | None = None) -> Any:
        try:
            return ray.get(reference, timeout=timeout_s)
        except ray_errors.RayTaskError as error:  # an answer that could not be sent or unpacked: our bug or a bad node
            cause = error.cause or error
            if isinstance(cause, _FULL):
                raise _trouble(cause) from error
            return {"kind": type(cause).__name__, "message": str(cause), "trace": str(error)}
        except (*_GONE, ray_errors.GetTimeoutError):
            raise
        except ray_errors.RayError as error:
            raise _trouble(error) from error

    def _outcome(self, ticket: int, answer: Any) -> Outcome:
        if isinstance(answer, dict) and set(answer) == {"kind", "message", "trace"}:
            return Failed(ticket, **answer)
        return answered(ticket, answer)


def _trouble(error: BaseException) -> ClusterError:
    """What is wrong with the cluster, and not with the work."""
    advice = "free some space, or use smaller batches or fewer --actors, then " if isinstance(error, _FULL) else ""
    return ClusterError(
        f"Ray is in trouble: {type(error).__name__}: {_reason(error)}; what was finished is saved, {advice}"
        "run the same command again to continue"
    )


def _reason(error: BaseException) -> str:
    """What Ray's text says, on one line and without its identifiers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("class_name:", "actor_id:", "namespace:", "name:", "('"))]
    text = " ".join(lines).partition(" Some common causes")[0][:400] or type(error).__name__
    if isinstance(error, ray_errors.OutOfMemoryError):
        text += " (memory ran out: try fewer --actors)"
    return text
