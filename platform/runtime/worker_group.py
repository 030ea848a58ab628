"""Processes that work on one thing together and talk to each other, as training does; `ray_train` starts them.

Each runs the same function, named `module:function`, with JSON arguments and a `Place`, by which it speaks to the
process that started the group. torch.distributed is set up when the function is called. Where a process is lost, all of
them are started again, up to `max_failures` times: the function has to go on from what it has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.errors import UsageError
from .pool import WorkerFactory
from .session import Connection, Session
from .stop import StopRequest


class Place(Protocol):
    """Where a function of the group runs."""

    node: str
    """The machine's name."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send plain JSON to the process that started the group; messages of one process arrive in order."""
        ...

    def asked_to_stop(self) -> int:
        """The number of the signal by which a stop was asked for; 0 where none was. Asks, and does not wait."""
        ...


@dataclass(frozen=True)
class GroupSize:
    """fewest, most: how many processes; threads, gpus: what each has."""

    fewest: int
    most: int
    threads: int = 1
    gpus: int = 0
    max_failures: int = 0

    def check(self, connection: Connection) -> None:
        """Raises UsageError where not even the fewest find a place; Ray would wait for them for ever."""
        nodes = connection.nodes()
        found = places(connection, self.threads, self.gpus)
        if found < self.fewest:
            each = f"{self.threads} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")
            exists = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
            raise UsageError(
                f"--workers: {self.fewest} with {each} each do not fit: {found} can be placed on {len(nodes)} node(s) "
                f"with {exists}; lower --workers or threads"
            )


def places(connection: Connection, threads: int, gpus: int) -> int:
    """How many processes with so many CPUs and GPUs each the nodes hold."""
    by_node = (
        min(int(node.get("CPU", 0) // threads), int(node.get("GPU", 0) // gpus) if gpus else 1 << 30)
        for node in connection.nodes()
    )
    return sum(by_node)


def run_together(
    session: Session,
    function: str,
    arguments: Mapping[str, Any],
    size: GroupSize,
    *,
    scratch: str,
    hear: Callable[[Mapping[str, Any]], None],
    stop: StopRequest,
) -> None:
    """Run `function(**arguments, place=...)` in every process of a group until all have returned.

    hear: gets what they tell, in this process. scratch: a folder that every node sees, for Ray's own notes. When `stop`
    is asked for, the processes are; what they raise then is raised here.

    Raises the errors of mplat's that a process raised, naming its node; ClusterError where more were lost than
    `max_failures`; UsageError where they do not fit into the cluster.
    """
    assert session.connection is not None
    session.connection.idle.end()  # they hold CPUs, which Ray would wait for
    size.check(session.connection)
    WorkerFactory(function, arguments)  # raises for what is no name or no JSON
    from .ray_train import run_group

    run_group(function, dict(arguments), size, scratch=scratch, hear=hear, stop=stop)
