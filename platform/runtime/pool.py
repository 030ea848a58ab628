"""What the scheduler needs from a set of workers, whoever runs them.

A *worker* is a plain object with `run(payload: dict) -> pyarrow.Table`, built inside its process by a
`WorkerFactory`: the name of an importable function and JSON arguments, so that nothing is ever pickled by value. An
*actor* is a worker's home: this process, or a Ray actor. A *pool* takes payloads for actors and hands back what
became of them.

A pool reports and never retries: the scheduler owns that policy.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from ..core import errors
from ..core.errors import MplatError, UsageError, suggest


class Worker(Protocol):
    """Does the work of one shard. It holds a model and nothing that a later shard depends on."""

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`; the same payload always gives the same bytes."""
        ...


@dataclass(frozen=True)
class WorkerFactory:
    """`WorkerFactory("package.module:function", {...})`: calling the function with the arguments gives a worker.

    files: what workers open by its name (`core.copies.placed`) -> the files it stands for; a node of a cluster that
    lacks one is sent them. needs: paths of files and folders that a node has to see itself.

    Raises UsageError for another form, arguments that are not plain JSON, and a function that is not there.
    """

    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs: Sequence[str] = ()

    def __post_init__(self) -> None:
        module, _, function = self.target.partition(":")
        if not module or not function or "__main__" in module:
            raise UsageError(f"worker factory {self.target!r}: write 'package.module:function' of an importable module")
        try:
            json.dumps(dict(self.kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"worker factory {self.target}: the arguments must be plain finite JSON ({error})"
            ) from error

    def build(self) -> Worker:
        """Import the module and make the worker."""
        module_name, _, name = self.target.partition(":")
        module = importlib.import_module(module_name)
        if not hasattr(module, name):
            raise UsageError(f"worker factory {self.target}: no such function; {suggest(name, dir(module))}")
        return getattr(module, name)(**json.loads(json.dumps(dict(self.kwargs))))


@dataclass(frozen=True)
class Finished:
    """The worker returned a table."""

    ticket: int
    table: pa.Table


@dataclass(frozen=True)
class Failed:
    """The worker raised."""

    ticket: int
    kind: str  # name of the exception's class
    message: str
    trace: str
    cause: BaseException | None = None  # the exception itself where it was raised in this process


@dataclass(frozen=True)
class Lost:
    """The worker's process died with this work on it, running or waiting."""

    ticket: int
    actor: int
    reason: str
    node_lost: bool = False  # the whole machine went away, or is out of reach: the work is not to blame


Outcome = Finished | Failed | Lost


class WorkerError(MplatError):
    """A worker raised something that is not an error of mplat's: a bug or a wrong configuration."""


class Pool(Protocol):
    """Actors by number, each taking payloads one after the other in the order submitted."""

    depth: int  # how many payloads an actor may hold: 2 hides the round trip, 1 where there is none

    @property
    def trouble(self) -> str:
        """What is known of why actors do not come up, in words; empty where nothing is."""
        ...

    def actors(self) -> Sequence[int]:
        """The actors that are up and take work now, oldest first."""
        ...

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        """Give `payload` to `actor`; the answer is a ticket, unique in this pool."""
        ...

    def wait(self, timeout_s: float) -> list[Outcome]:
        """What became known, after at most about `timeout_s`. When an actor dies, all its tickets come back in one
        answer, the oldest first; results that it had finished come back as such."""
        ...

    def replace(self, actor: int) -> None:
        """End `actor` if it still lives and start another in its place; it appears in `actors` once it is up."""
        ...

    def close(self) -> None:
        """End all actors. A second call does nothing."""
        ...


def answered(ticket: int, answer: Any) -> Finished | Failed:
    """What a worker returned, as an outcome: anything but an Arrow table is its failure."""
    if isinstance(answer, pa.Table):
        return Finished(ticket, answer)
    return Failed(ticket, "TypeError", f"the worker returned {type(answer).__name__}, not an Arrow table", "")


def error_from(failure: Failed, *, where: str) -> MplatError:
    """The error to raise in the driver for what a worker raised: mplat's own errors keep their class and exit code."""
    own = getattr(errors, failure.kind, None)
    if isinstance(own, type) and issubclass(own, MplatError):
        return own(failure.message)
    last_lines = "\n".join(failure.trace.strip().splitlines()[-12:])
    return WorkerError(f"{where}: the worker raised {failure.kind}: {failure.message}\n{last_lines}")
