"""A pool of workers that are not there, with a clock of its own, for tests of the scheduler; not a test file."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from mplat.runtime.pool import Failed, Finished, Lost, Outcome


def row(item: int) -> tuple[int, int]:
    return item, item * item


@dataclass
class Step:
    """What happens to one execution: its duration and its end ("ok", "dies", "node dies", "unsent" for a result that
    leaves with the next one and is lost where that one dies, or an exception's text)."""

    seconds: float = 1.0
    end: str = "ok"
    kind: str = "KeyError"


@dataclass
class FakePool:
    """Actors that work through their queues on a clock of their own; `script` decides each execution."""

    script: Callable[[int, tuple[int, ...], int], Step]  # actor, items, how often these items were begun before -> step
    size: int = 2
    depth: int = 2
    trouble: str = ""
    starting_s: float = 2.0
    verdict_s: float = 0.0  # from a death until what was lost comes back
    now: float = 0.0
    begun: list[tuple[int, ...]] = field(default_factory=list)
    shuffle: random.Random | None = None
    on_wait: Callable[[FakePool], None] = lambda pool: None

    def __post_init__(self) -> None:
        self.numbers, self.tickets = itertools.count(), itertools.count()
        self.queues: dict[int, list[tuple[int, tuple[int, ...]]]] = {next(self.numbers): [] for _ in range(self.size)}
        self.running: dict[int, tuple[float, Step]] = {}
        self.starting: dict[int, float] = {}
        self.most_in_flight = 0
        self.unsent: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        self.verdicts: list[tuple[float, list[Outcome]]] = []

    def clock(self) -> float:
        return self.now

    def actors(self) -> list[int]:
        return list(self.queues)

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        ticket = next(self.tickets)
        self.queues[actor].append((ticket, payload["items"]))
        self.most_in_flight = max(self.most_in_flight, len(self.queues[actor]))
        self._begin(actor)
        return ticket

    def _begin(self, actor: int) -> None:
        if actor not in self.running and self.queues[actor]:
            items = self.queues[actor][0][1]
            step = self.script(actor, items, self.begun.count(items))
            self.begun.append(items)
            self.running[actor] = (self.now + step.seconds, step)

    def wait(self, timeout_s: float) -> list[Outcome]:
        self.on_wait(self)
        events = [*(end for end, _ in (*self.running.values(), *self.verdicts)), *self.starting.values()]
        self.now = min([self.now + timeout_s, *events])
        for actor in [a for a, at in self.starting.items() if at <= self.now]:
            del self.starting[actor]
            self.queues[actor] = []
        outcomes: list[Outcome] = []
        for actor in [a for a, (end, _) in self.running.items() if end <= self.now]:
            _, step = self.running.pop(actor)
            if step.end in ("dies", "node dies"):
                lost = [*self.unsent.pop(actor, []), *self.queues.pop(actor)]
                told: list[Outcome] = [Lost(ticket, actor, step.end, step.end == "node dies") for ticket, _ in lost]
                self.verdicts.append((self.now + self.verdict_s, told))
                continue
            ticket, items = self.queues[actor].pop(0)
            if step.end == "unsent" and self.queues[actor]:
                self.unsent.setdefault(actor, []).append((ticket, items))
            elif step.end in ("ok", "unsent"):
                outcomes += [Finished(earlier, rows(done)) for earlier, done in self.unsent.pop(actor, [])]
                outcomes.append(Finished(ticket, rows(items)))
            else:
                outcomes.append(Failed(ticket, step.kind, step.end, f"line\n{step.kind}: {step.end}"))
            self._begin(actor)
        outcomes += [outcome for at, told in self.verdicts if at <= self.now for outcome in told]
        self.verdicts = [(at, told) for at, told in self.verdicts if at > self.now]
        if self.shuffle is not None:
            keep_order = {o.actor for o in outcomes if isinstance(o, Lost)}
            if not keep_order:
                self.shuffle.shuffle(outcomes)
        return outcomes

    def replace(self, actor: int) -> None:
        assert actor not in self.queues, "only dead actors are replaced here"
        self.starting[next(self.numbers)] = self.now + self.starting_s

    def close(self) -> None:
        raise AssertionError("the pool belongs to the caller")


def rows(items: tuple[int, ...]) -> pa.Table:
    return pa.table({"item": [row(i)[0] for i in items], "value": [row(i)[1] for i in items]})
