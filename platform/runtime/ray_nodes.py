"""The machines of a Ray cluster as the driver sees them: which are there, and whether a lost process was on one that is
gone.

Ray declares a machine dead only after it has been silent for some time, 15 seconds by default. Its own process there,
the raylet, answers on a port as long as it lives, so that asking it is the quicker verdict.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import ray

_REACH_S = 2.0


class Nodes:
    """Those that were seen since this was made."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        self._look()

    def is_gone(self, node: str) -> bool:
        """Whether the machine with this id is dead for Ray, or out of reach."""
        known = {one["NodeID"]: one for one in self._look()}
        gone = node in known and not (known[node]["Alive"] and _answers(known[node]))
        if gone:
            self._gone[node] = None
        return gone

    def newly_gone(self) -> list[str]:
        """Names of the machines that are gone, and were not when this was asked last."""
        before = dict(self._gone)
        for node in list(self._names):
            if node not in self._gone:
                self.is_gone(node)
        return [self._names[node] for node in self._gone if node not in before]

    def in_words(self) -> str:
        """Which are gone; empty where none is."""
        if not self._gone:
            return ""
        names = ", ".join(dict.fromkeys(self._names[node] for node in self._gone))
        return f"gone: node {names}" if len(self._gone) == 1 else f"gone: nodes {names}"

    def name(self, node: str) -> str:
        """The machine's own name and address."""
        return self._names.get(node, node)

    def _look(self) -> list[Mapping[str, Any]]:
        nodes: list[Mapping[str, Any]] = ray.nodes()
        for one in nodes:
            if one["Alive"]:  # those that died before are no news
                self._names[one["NodeID"]] = f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']})"
        return nodes


def _answers(node: Mapping[str, Any]) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_REACH_S).close()
        return True
    return False
