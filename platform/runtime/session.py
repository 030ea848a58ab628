"""Where work runs: in this process, on a private local Ray, or on a cluster that is already there.

`open_session("none")` needs no Ray at all. `"local"` starts a Ray of its own with a small object store, a private
token and a short folder for its sockets, and always takes it down again. `HOST:PORT` attaches; `"auto"` attaches to
what RAY_ADDRESS names, else is `"local"`. The same work gives the same tables on all of them.

Authentication is never left to Ray's changing defaults: the mode is decided here, exported as RAY_AUTH_MODE for the
session, restored after it, and named in every error about a connection. Attaching is tried in a child process first,
because Ray's own attempt on a wrong address takes minutes and cannot be interrupted.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..core.errors import UsageError, suggest
from .pool import Pool, WorkerFactory

if TYPE_CHECKING:
    from .idle_actors import IdleActors
    from .preflight import Preflight, Ready

MEMORY_PER_ACTOR = 2 << 30  # what the default number of actors allows for each; --actors is not limited by it


class Connection(Protocol):
    """An open connection to Ray.

    idle: actors of pools that are closed, for the next pool. preflight: of a cluster, what is known of its nodes."""

    idle: IdleActors
    preflight: Preflight | None

    def nodes(self) -> list[Mapping[str, float]]:
        """The resources of every living node."""
        ...

    def close(self) -> None:
        """Disconnect, and end what was started for it."""
        ...


@dataclass(frozen=True)
class Session:
    """An open place to run; a context manager that closes it."""

    kind: Literal["in-process", "local", "cluster"]
    address: str
    actors: int
    threads_per_actor: int = 1
    gpus_per_actor: float = 0
    connection: Connection | None = field(default=None, repr=False)
    named: bool = False  # the number of actors was asked for; else it follows the nodes that come and go
    record: Path | None = None  # of the run; which nodes see its folder is in `describe`

    @contextmanager
    def pool(self, factory: WorkerFactory, *, at_most: int | None = None) -> Iterator[Pool]:
        """A pool of `actors` workers, or of `at_most` where there is not more to do; closed at the end. Under Ray their
        processes stay for the next pool of this connection."""
        opened: Pool
        if self.connection is None:
            from .inprocess import InProcessPool

            opened = InProcessPool(factory, threads=self.threads_per_actor)
        else:
            from .ray_pool import RayPool

            size = self.actors if at_most is None else max(1, min(self.actors, at_most))
            threads, gpus = self.threads_per_actor, self.gpus_per_actor
            most = None if self.named else partial(self._room, at_most)
            ready, idle = self.make_ready(factory), self.connection.idle
            opened = RayPool(factory, size=size, threads=threads, gpus=gpus, idle=idle, most=most, ready=ready)
        try:
            yield opened
        finally:
            opened.close()

    def make_ready(self, factory: WorkerFactory, *, shared: bool = False) -> Ready | None:
        """Ask the nodes that have room for an actor what they lack for these workers, and send them what can be sent;
        None where there is no cluster. shared: they have to see the folder of the run. Raises ClusterError as
        `Preflight.of` does."""
        preflight = None if self.connection is None else self.connection.preflight
        if preflight is None:
            return None
        from .node_questions import living_nodes

        threads, gpus = self.threads_per_actor, self.gpus_per_actor
        nodes = [node for node in living_nodes() if _places(node.resources, threads, gpus)]
        return preflight.of(factory, nodes, self.record, shared=shared)

    def using(self, *, actors: int) -> Session:
        """The same connection with another number of actors."""
        if self.connection is None:
            return replace(self, actors=_actors_without_ray(actors))
        fitting = _fitting(self.connection, actors, self.threads_per_actor, self.gpus_per_actor)
        return replace(self, actors=fitting, named=True)

    def _room(self, at_most: int | None) -> int:
        """How many actors find room now, not more than `at_most`."""
        assert self.connection is not None
        room = _by_default(self.connection, self.threads_per_actor, self.gpus_per_actor)
        return room if at_most is None else min(room, at_most)

    def describe(self) -> dict[str, Any]:
        """For the record of a run; nothing of it changes a result."""
        return {
            "kind": self.kind,
            "address": self.address,
            "actors": self.actors,
            "threads_per_actor": self.threads_per_actor,
            "gpus_per_actor": self.gpus_per_actor,
            **self._who_sees_the_folder(),
        }

    def _who_sees_the_folder(self) -> dict[str, Any]:
        preflight = None if self.connection is None else self.connection.preflight
        seen = {} if preflight is None or self.record is None else preflight.sees(self.record)
        return {"sees_the_folder": seen} if seen else {}

    def close(self) -> None:
        """End what the session started. A second call does nothing."""
        if self.connection is not None:
            self.connection.close()
            atexit.unregister(self.connection.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(
    address: str = "auto",
    *,
    actors: int | None = None,
    threads_per_actor: int = 1,
    gpus_per_actor: float = 0,
    auth: Literal["token", "disabled"] | None = None,
    connect_timeout_s: float = 15.0,
) -> Session:
    """Open a session at `address`: none, local, auto or HOST:PORT.

    `actors` defaults to as many as the CPUs (and GPUs) hold with `threads_per_actor` each, with 2 GiB of memory for
    each. `auth` is Ray's authentication mode; by default RAY_AUTH_MODE, else a token wherever there is one. Raises
    UsageError where Ray is not installed or the actors cannot fit, ClusterError where Ray cannot be reached within
    `connect_timeout_s`.
    """
    fits = gpus_per_actor <= 1 or float(gpus_per_actor).is_integer()  # Ray gives whole ones, or a share of one
    if threads_per_actor < 1 or gpus_per_actor < 0 or not fits or (actors is not None and actors < 1):
        raise UsageError(
            f"{actors} actors with {threads_per_actor} threads and {gpus_per_actor} GPUs each: there must "
            "be at least one actor with one thread, and a share of one GPU or a whole number of them"
        )
    where = _resolve(address)
    if where == "none":
        if gpus_per_actor:
            raise UsageError(
                f"{gpus_per_actor:g} GPUs for each worker need Ray; use --address local or HOST:PORT, or leave "
                "--gpus-per-actor out: --device alone says where this process computes"
            )
        return Session("in-process", "none", _actors_without_ray(actors), threads_per_actor)
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            f"--address {address} needs Ray, which is not installed; use --address none to run in this "
            "process, or `pip install ray`"
        )
    from . import ray_connection

    if where == "local":
        connection = ray_connection.start_local(auth)
    elif where == "connected":
        connection = ray_connection.adopt()
    else:
        connection = ray_connection.attach(where, auth, connect_timeout_s)
    try:
        fitting = _fitting(connection, actors, threads_per_actor, gpus_per_actor)
    except BaseException:
        connection.close()
        raise
    atexit.register(connection.close)
    kind = "local" if where == "local" else "cluster"
    return Session(kind, where, fitting, threads_per_actor, gpus_per_actor, connection, named=actors is not None)


def _resolve(address: str) -> str:
    """none, local, connected (this process has a Ray already), or what Ray is to be called with."""
    if address in ("none", "local"):
        return address
    if address == "auto":
        named = os.environ.get("RAY_ADDRESS", "")
        if _is_connected():
            return "connected"
        return _resolve(named) if named not in ("", "auto") else (named or "local")
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: the Ray client protocol is too slow for results; give the HOST:PORT of "
            "the cluster's head from one of its machines, or run there with `mplat cluster submit`"
        )
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s/]+):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        hint = suggest(address, ["none", "local", "auto", "HOST:PORT"])
        raise UsageError(f"--address {address} (or RAY_ADDRESS) is not an address; {hint}")
    return address


def _is_connected() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _actors_without_ray(actors: int | None) -> int:
    if actors not in (None, 1):
        raise UsageError(f"{actors} actors need Ray; use --address local, or leave --actors out with --address none")
    return 1


def _fitting(connection: Connection, actors: int | None, threads: int, gpus: float) -> int:
    """How many actors to use; Ray itself would wait for ever for those that can never be placed."""
    nodes = connection.nodes()
    places = sum(_places(node, threads, gpus) for node in nodes)
    wanted = 1 if actors is None else actors
    if places < wanted:
        exists = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
        each = f"{threads} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise UsageError(
            f"{wanted} actors with {each} each do not fit: {places} can be placed on {len(nodes)} node(s) "
            f"with {exists}; lower --actors or the threads or GPUs of each"
        )
    return max(1, _by_default(connection, threads, gpus)) if actors is None else actors


def _by_default(connection: Connection, threads: int, gpus: float) -> int:
    """How many actors the CPUs, the GPUs and the memory of the nodes hold."""
    nodes = connection.nodes()
    places = sum(_places(node, threads, gpus) for node in nodes)
    return min(places, int(sum(node.get("memory", 0) for node in nodes) // MEMORY_PER_ACTOR))


def _places(node: Mapping[str, float], threads: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // threads)
    return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-6)) if gpus else by_cpu
