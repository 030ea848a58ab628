"""One cheap task on every node of a cluster, which says what the node has.

It asks nothing of a node but Python and Ray: that mplat is missing there, or another one, is an answer.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.whole_files import part_of

ANSWER_S = 30.0
_LOOK_S = 2.0  # how often it is looked whether a silent node is gone


@dataclass(frozen=True)
class Node:
    """A living machine of the cluster. name: its host name and address."""

    id: str
    name: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What a node said. error: why it could not say it, empty where it did; the rest is then not known.

    saw: `fingerprint` by path. shares: whether it sees the driver's folder; None where that was not asked."""

    node: Node
    error: str = ""
    installation: Mapping[str, str] = field(default_factory=dict)
    saw: Mapping[str, str | None] = field(default_factory=dict)
    shares: bool | None = None


def living_nodes() -> list[Node]:
    """Those of the cluster that this process is connected to."""
    import ray

    return [
        Node(one["NodeID"], f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']})", one["Resources"])
        for one in ray.nodes()
        if one["Alive"]
    ]


def ask(nodes: Sequence[Node], paths: Mapping[str, bool] | None = None, record: Path | None = None) -> list[Answer]:
    """Ask all nodes at once, for at most `ANSWER_S`; those that are gone or silent are left out.

    paths: whose `fingerprint` is asked for, and whether with its content. record: of a run, of whose folder it is asked
    whether the node sees it, by a file that is written there for this.
    """
    import ray
    from ray import exceptions as ray_errors
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from .ray_nodes import Nodes

    machines, answers = Nodes(), list[Answer]()
    with _token(record) as token:
        question = {"paths": dict(paths or {}), "token": token}
        waiting: dict[Any, Node] = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            task = ray.remote(_looker()).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            waiting[task.remote(question)] = node
        end = time.monotonic() + ANSWER_S
        while waiting and (left := end - time.monotonic()) > 0:
            ready, _ = ray.wait([*waiting], num_returns=len(waiting), timeout=min(left, _LOOK_S))
            for reference in ready:
                node = waiting.pop(reference)
                try:
                    answers.append(Answer(node, **ray.get(reference)))
                except ray_errors.RayTaskError as error:
                    answers.append(Answer(node, f"cannot be asked ({_last_line(error)})"))
                except ray_errors.RayError:  # it is gone, or its worker: nothing that is known of it
                    continue
            for reference, node in [*waiting.items()]:
                if machines.is_gone(node.id):
                    del waiting[reference]
    return answers


def _looker() -> Any:
    """The task. It is sent whole and not by its name, because mplat may not be there."""

    def look(question: dict[str, Any]) -> dict[str, Any]:
        from importlib import import_module

        try:
            found = import_module("mplat.runtime.installation").installation()
        except Exception as error:
            return {"error": f"cannot import mplat ({type(error).__name__}: {error})"}
        try:
            answers = import_module("mplat.runtime.node_answers")
        except ImportError:  # another version, which is said by what it has installed
            return {"installation": found}
        return {"installation": found, **answers.answer(question)}

    return look


@contextmanager
def _token(record: Path | None) -> Iterator[tuple[str, str] | None]:
    """A hidden file beside `record` for the time of the block: its path and content; None where it cannot be written.
    What a killed run leaves of it is swept as what is unfinished of its record."""
    if record is None:
        yield None
        return
    path, content = part_of(record.absolute()), secrets.token_hex(16)
    try:
        path.write_text(content, encoding="utf-8")
    except OSError:
        yield None
        return
    try:
        yield str(path), content
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(error).__name__
