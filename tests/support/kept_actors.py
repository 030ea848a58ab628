"""A local Ray whose two actors live through many tests: starting them takes 20 seconds of processor time; not a test
file. Tests ask for the fixture `ray_workers`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from mplat.runtime.pool import Outcome, Pool, Worker, WorkerFactory
from mplat.runtime.session import Session, open_session


class AnyWorker:
    """Builds the worker that a payload is for, and keeps it for payloads of the same factory."""

    def __init__(self) -> None:
        self._factory = ""
        self._worker: Worker | None = None

    def run(self, payload: dict[str, Any]) -> pa.Table:
        factory = payload["factory"]
        if self._worker is None or repr(factory) != self._factory:
            self._factory, self._worker = repr(factory), WorkerFactory(**factory).build()
        return self._worker.run(payload["payload"])


class OfFactory:
    """A pool for one factory: the first `actors` of a pool of `AnyWorker`, which stays open."""

    def __init__(self, pool: Pool, factory: WorkerFactory, actors: int) -> None:
        self._pool, self._factory, self._actors = pool, factory, actors
        self._tickets: set[int] = set()
        self.depth = pool.depth

    def actors(self) -> Sequence[int]:
        return self._pool.actors()[: self._actors]

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        factory: Mapping[str, Any] = asdict(self._factory)
        ticket = self._pool.submit(actor, {"factory": factory, "payload": payload})
        self._tickets.add(ticket)
        return ticket

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Of this factory: what was done twice, and no longer waited for, may arrive in the time of the next."""
        return [one for one in self._pool.wait(timeout_s) if one.ticket in self._tickets]

    def replace(self, actor: int) -> None:
        raise AssertionError(f"actor {actor} died")

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Kept(Session):
    """A session that works on some actors of one pool, and leaves them running."""

    of: Pool | None = None

    @contextmanager
    def pool(self, factory: WorkerFactory, *, at_most: int | None = None) -> Iterator[Pool]:
        assert self.of is not None
        yield OfFactory(self.of, factory, self.actors)


@contextmanager
def _two_actors() -> Iterator[tuple[Session, Pool]]:
    """They import this file."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with (
        patch.dict(os.environ, PYTHONPATH=path),
        open_session("local", actors=2) as session,
        session.pool(WorkerFactory(f"{__name__}:AnyWorker")) as pool,
    ):
        while len(pool.actors()) < 2:
            assert not pool.wait(1.0)
        yield session, pool


_open = ExitStack()
_running: list[tuple[Session, Pool]] = []


def kept_actors(count: int) -> Session:
    """A session of one or two actors, which are there until `let_go`."""
    if not _running:
        _running.append(_open.enter_context(_two_actors()))
    ((session, pool),) = _running
    return Kept("local", session.address, count, of=pool)


def let_go() -> None:
    """End Ray, if it runs."""
    _running.clear()
    _open.close()
