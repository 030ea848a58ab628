"""Runs shards on a pool until every one is committed: the one owner of the retry policy.

Every shard is committed by the driver, in whatever order results arrive. A shard whose worker died is run again. A
dying worker may take the answer of the shard before with it, so what is suspected has its next worker to itself; a
shard that has taken two workers down waits until nothing else runs, because two large ones together may have had too
little memory. Only what dies whole and alone again is cut in halves, and so on down to the single item, which is then
reported with the row that `lost_row` makes of it: a poisonous item costs itself, not the run. What has too little
memory and says so is cut at once. The death of a machine says nothing about its shards. Work that an
actor has held for four times the median is copied to an idle one; the first result counts, and a second one goes to
`commit` as well, which must find it equal. What a worker raises is not retried into silence: an error of mplat's ends
the run at once, any other when it comes from two actors or twice from one shard. SIGINT, SIGTERM or SIGHUP: nothing new
starts, what runs gets `grace_s` to finish and is committed, then KeyboardInterrupt or StoppedEarly; a second signal
does not wait.

It knows neither Ray nor files nor models, and takes its clock as an argument.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..core.errors import ClusterError, MplatError
from .plan import Shard
from .pool import Failed, Finished, Lost, Pool, WorkerError, error_from
from .stop import StopRequest


@dataclass(frozen=True)
class Limits:
    """The policy in numbers."""

    grace_s: float = 30.0  # what running shards get after a signal
    start_timeout_s: float = 300.0  # how long there may be no actor at all
    poll_s: float = 0.5
    crashes_before_cut: int = 4  # of a whole shard: random deaths hit the same one two or three times
    crashes_before_alone: int = 2
    losses_in_a_row: int = 12  # actors lost with nothing finished in between, before the run is given up
    straggler_factor: float = 4.0  # times the median duration of a shard
    straggler_floor_s: float = 1.0  # copies of short shards cost more than they save
    straggler_samples: int = 3


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Made:
    """How a shard came to be, for the ledger."""

    attempts: int  # 1 + the times it failed or was lost
    split: bool  # computed in pieces
    seconds: float


def _silent(text: str) -> None:
    """Notes go nowhere."""


@dataclass(frozen=True)
class Job:
    """What the scheduler asks of its caller."""

    payload: Callable[[Shard, tuple[int, ...]], dict[str, Any]]  # for a shard, or for a piece of it
    check: Callable[[Shard, tuple[int, ...], pa.Table], None]  # raises where a table is not the answer for these items
    commit: Callable[[Shard, pa.Table, Made], None]  # durable and idempotent; raises where the bytes differ
    lost_row: Callable[[int, str], pa.Table]  # stands for an item that kills every worker, with the reason
    note: Callable[[str], None] = _silent  # called with everything out of the ordinary, in words
    name: str = ""  # of the stage that these shards are, for messages: a command may have several


def run_shards(
    shards: Sequence[Shard],
    pool: Pool,
    job: Job,
    *,
    limits: Limits = DEFAULT_LIMITS,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run `shards` on `pool` and commit each. Returns when all are; the module says what else can happen."""
    with StopRequest() as stop:
        _Run(shards, pool, job, limits, clock, stop).loop()


@dataclass(eq=False)
class _Unit:
    """Work submitted as one: a shard, or a piece of a shard that was cut."""

    shard: Shard
    items: tuple[int, ...]
    crashes: int = 0
    failures: int = 0
    avoid: int | None = None  # the actor it failed on
    copies: int = 0  # how often it is in flight now
    overtaken: bool = False
    done: bool = False
    cut: bool = False

    @property
    def whole(self) -> bool:
        return len(self.items) == len(self.shard.items)

    def must_be_alone(self, limits: Limits) -> bool:
        """Whether nothing may run beside it: the next death decides about it."""
        return self.crashes >= (limits.crashes_before_alone if self.whole else 1)

    def is_condemned(self, limits: Limits) -> bool:
        """Whether it has killed too often. What is cut already is cut further at once, down to the single item."""
        if self.whole:
            return self.crashes >= limits.crashes_before_cut
        return self.crashes >= (2 if len(self.items) == 1 else 1)


@dataclass(eq=False)
class _Flight:
    unit: _Unit
    actor: int
    since: float  # when the actor could begin with it


class _Run:
    def __init__(
        self,
        shards: Sequence[Shard],
        pool: Pool,
        job: Job,
        limits: Limits,
        clock: Callable[[], float],
        stop: StopRequest,
    ) -> None:
        self.pool, self.job, self.limits, self.clock, self.stop = pool, job, limits, clock, stop
        self.total = len(shards)
        self.committed: set[str] = set()
        self.queue = deque(_Unit(shard, shard.items) for shard in shards)
        self.flights: dict[int, _Flight] = {}  # by ticket, in the order submitted
        self.pieces: dict[str, dict[tuple[int, ...], pa.Table]] = defaultdict(dict)
        self.setbacks: dict[str, int] = defaultdict(int)  # by shard: attempts that failed or were lost
        self.seconds: dict[str, float] = defaultdict(float)
        self.durations: list[float] = []
        self.failed_on: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.losses_in_a_row = 0
        self.most_actors = 0

    def loop(self) -> None:
        stop_at: float | None = None
        alone_since: float | None = None
        while len(self.committed) < self.total:
            if not self.stop:
                self._fill()
                self._overtake_stragglers()
            elif stop_at is None:
                stop_at = self.clock() + self.limits.grace_s
                self.job.note(f"stopping: {len(self.flights)} shards are still running")
            if stop_at is not None and (not self.flights or self.clock() >= stop_at):
                break
            alone_since = self._no_actor_since(alone_since)
            outcomes = self.pool.wait(self.limits.poll_s)
            lost: dict[int, list[Lost]] = defaultdict(list)
            for outcome in outcomes:  # results before losses: what was finished before a death counts
                if isinstance(outcome, Lost):
                    lost[outcome.actor].append(outcome)
                else:
                    self._returned(outcome)
            for actor, losses in lost.items():
                self._actor_lost(losses)
                self.pool.replace(actor)
        if self.stop:
            raise self.stop.error(f"stopped early; {self._saved()}; run the same command again to continue")

    def _saved(self) -> str:
        which = f"that stage {self.job.name!r} still needed" if self.job.name else "of this run"
        return f"{len(self.committed)} of the {self.total} shards {which} are saved"

    def _no_actor_since(self, since: float | None) -> float | None:
        self.most_actors = max(self.most_actors, len(self.pool.actors()))
        if self.pool.actors():
            return None
        since = self.clock() if since is None else since
        if self.clock() - since > self.limits.start_timeout_s:
            why = f" ({self.pool.trouble})" if self.pool.trouble else ""
            raise ClusterError(
                f"no worker came up within {self.limits.start_timeout_s:.0f} s{why}; {self._saved()}; see what is free "
                "with `ray status`, then run the same command again to continue"
            )
        return since

    # ---- giving out work

    def _fill(self) -> None:
        """In rounds: one shard for every actor before a second one for any."""
        for depth in range(1, self.pool.depth + 1):
            for actor in self.pool.actors():
                if any(flight.unit.must_be_alone(self.limits) for flight in self.flights.values()):
                    return
                held = [flight.unit for flight in self.flights.values() if flight.actor == actor]
                takes_more = len(held) < depth and not any(unit.crashes for unit in held)
                unit = self._next_for(actor, idle=not held) if takes_more else None
                if unit is not None:
                    self.queue.remove(unit)
                    self._submit(unit, actor)

    def _next_for(self, actor: int, *, idle: bool) -> _Unit | None:
        """The first that did not fail on this actor; what did waits for another, where there is one. A suspect waits
        for an idle one: what dies there has killed it. What must be alone waits for the end of all others."""
        only_one = len(self.pool.actors()) == 1
        for unit in self.queue:
            if unit.avoid == actor and not only_one:
                continue
            if not self.flights if unit.must_be_alone(self.limits) else idle or not unit.crashes:
                return unit
        return None

    def _submit(self, unit: _Unit, actor: int) -> None:
        ticket = self.pool.submit(actor, self.job.payload(unit.shard, unit.items))
        self.flights[ticket] = _Flight(unit, actor, self.clock())
        unit.copies += 1

    def _overtake_stragglers(self) -> None:
        """Copy what an actor far behind its time holds to actors with nothing to do."""
        if self.queue or len(self.durations) < self.limits.straggler_samples:
            return
        limit = max(self.limits.straggler_floor_s, self.limits.straggler_factor * statistics.median(self.durations))
        running = {flight.actor: flight for flight in reversed(self.flights.values())}  # the oldest of each actor
        up = self.pool.actors()  # what one has that is not, comes back by itself
        late = {actor for actor, flight in running.items() if actor in up and self.clock() - flight.since > limit}
        idle = [actor for actor in up if actor not in running]
        for flight in list(self.flights.values()):
            unit = flight.unit
            alone = unit.must_be_alone(self.limits)
            if idle and flight.actor in late and not (unit.overtaken or unit.done or alone):
                unit.overtaken = True
                self.job.note(f"shard {unit.shard.key} waits for a slow worker since {limit:.1f} s; a copy is started")
                self._submit(unit, idle.pop(0))

    # ---- taking results

    def _returned(self, outcome: Finished | Failed) -> None:
        flight = self.flights.pop(outcome.ticket)
        unit, now = flight.unit, self.clock()
        unit.copies -= 1
        for other in self.flights.values():
            if other.actor == flight.actor:
                other.since = now  # only now could the actor begin with it
        if isinstance(outcome, Failed):
            self._failed(flight, outcome)
            return
        self.losses_in_a_row = 0
        if unit.cut or (unit.done and not unit.whole):
            return
        self.job.check(unit.shard, unit.items, outcome.table)
        unit.done = True
        self.seconds[unit.shard.key] += now - flight.since
        if unit.whole:
            self.durations.append(now - flight.since)
            self._commit(unit.shard, outcome.table, split=False)
        else:
            self._collect(unit, outcome.table)

    def _collect(self, unit: _Unit, table: pa.Table) -> None:
        """Keep a piece; commit the shard once all its pieces are there."""
        pieces = self.pieces[unit.shard.key]
        pieces[unit.items] = table
        if sum(map(len, pieces)) == len(unit.shard.items):
            place = {item: position for position, item in enumerate(unit.shard.items)}
            ordered = sorted(pieces, key=lambda items: place[items[0]])
            self._commit(unit.shard, pa.concat_tables([pieces[items] for items in ordered]), split=True)

    def _commit(self, shard: Shard, table: pa.Table, *, split: bool) -> None:
        attempts = 1 + self.setbacks[shard.key]
        self.job.commit(shard, table, Made(attempts, split, round(self.seconds[shard.key], 3)))
        self.committed.add(shard.key)

    # ---- setbacks

    def _failed(self, flight: _Flight, outcome: Failed) -> None:
        unit, cause = flight.unit, outcome.cause
        if unit.done or unit.cut:
            return
        self.setbacks[unit.shard.key] += 1
        unit.failures += 1
        where = self.failed_on[outcome.kind, outcome.message]
        where.add(flight.actor)
        error = error_from(outcome, where=f"shard {unit.shard.key}")
        if isinstance(cause, MplatError):
            raise cause
        if out_of_memory(outcome):
            if len(unit.items) == 1:
                raise ClusterError(
                    f"shard {unit.shard.key}: there is too little memory even for one item ({outcome.message}); "
                    f"{self._saved()}; use a smaller model, fewer --actors or a larger machine, then run the same "
                    "command again"
                ) from cause
            if not unit.copies:
                self._cut(unit, f"{outcome.kind}: {outcome.message}", "need more memory than there is")
            return
        if len(where) > 1 or unit.failures > 1 or not isinstance(error, WorkerError):
            raise error from cause
        self.job.note(f"shard {unit.shard.key} failed with {outcome.kind}: {outcome.message}; it is tried once more")
        unit.avoid = flight.actor
        if not unit.copies:
            self.queue.append(unit)

    def _actor_lost(self, losses: Sequence[Lost]) -> None:
        """The oldest ticket of a dead actor was running, or its answer was on the way: it is the suspect."""
        flights = [self.flights.pop(loss.ticket) for loss in losses]
        for flight in flights:
            flight.unit.copies -= 1
        for flight in reversed(flights[1:]):
            self._requeue(flight.unit, first=True)
        suspect, loss = flights[0].unit, losses[0]
        self.setbacks[suspect.shard.key] += 1
        self.job.note(
            f"shard {suspect.shard.key} lost its worker ({loss.reason}); attempt "
            f"{1 + self.setbacks[suspect.shard.key]} follows"
        )
        if not loss.node_lost:  # a machine that goes away says nothing about the work
            suspect.crashes += 1
            self.losses_in_a_row += 1
        if self.losses_in_a_row >= max(self.limits.losses_in_a_row, 2 * self.most_actors):
            raise ClusterError(
                f"{self.losses_in_a_row} workers died one after the other with nothing finished in between (last: "
                f"{loss.reason}); {self._saved()}; try fewer --actors or a smaller batch if memory ran out, then run "
                "the same command again"
            )
        if not suspect.is_condemned(self.limits):
            self._requeue(suspect, first=False)  # last: healthy work goes first, and shows that workers can live
        elif not (suspect.done or suspect.cut):
            self._cut(suspect, loss.reason, f"killed {suspect.crashes} workers")

    def _requeue(self, unit: _Unit, *, first: bool) -> None:
        if unit.done or unit.cut or unit.copies:
            return
        if first:
            self.queue.appendleft(unit)
        else:
            self.queue.append(unit)

    def _cut(self, unit: _Unit, reason: str, what: str) -> None:
        unit.cut = True
        if len(unit.items) == 1:
            self.job.note(f"item {unit.items[0]} of shard {unit.shard.key} is given up, it kills every worker")
            self._collect(unit, self.job.lost_row(unit.items[0], reason))
            return
        middle = len(unit.items) // 2
        self.job.note(f"shard {unit.shard.key} is cut: its {len(unit.items)} items {what}")
        self.queue.extend(_Unit(unit.shard, half) for half in (unit.items[:middle], unit.items[middle:]))


def out_of_memory(failure: Failed) -> bool:
    """Whether a worker raised because it had too little memory: of a GPU, of the machine, of numpy or Arrow."""
    return (
        failure.kind in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError", "ArrowMemoryError")
        or "CUDA out of memory" in failure.message
        or "can't allocate memory" in failure.message
    )
