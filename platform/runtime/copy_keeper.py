"""Files that a node lacks, sent there in pieces: an actor on each such node keeps them in a private folder.

At most two pieces are under way at a time, so that neither the driver nor Ray's store holds more of a file than that.
The folder goes with the session; what a killed driver left is swept by whoever needs such a folder there next.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..core.errors import ClusterError
from .private_folder import PrivateFolder

PIECE_BYTES = 16 << 20
_GONE = (ray_errors.RayActorError, ray_errors.ActorUnschedulableError, ray_errors.ObjectLostError)
_END_S = 5.0  # how long a node may take to delete its copies


class CopyKeeper:
    """The actor. Its methods raise nothing through Ray: they say what is wrong, or nothing."""

    def __init__(self) -> None:
        self._folder: PrivateFolder | None = None
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def begin(self, place: Sequence[str]) -> tuple[str, str]:
        """A new file at `place`, a path by its parts below the folder. What is wrong, and the whole path."""
        try:
            self._folder = self._folder or PrivateFolder()
            path = self._folder.path.joinpath(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._digest = path.open("wb"), hashlib.sha256()
        except OSError as error:
            return _words(error), ""
        return "", str(path)

    def write(self, piece: bytes) -> str:
        """Append to it."""
        assert self._file is not None
        try:
            self._file.write(piece)
        except OSError as error:
            return _words(error)
        self._digest.update(piece)
        return ""

    def end(self, sha256: str) -> str:
        """It is whole where it has this digest."""
        assert self._file is not None
        try:
            self._file.close()
        except OSError as error:
            return _words(error)
        return "" if self._digest.hexdigest() == sha256 else "what arrived is not what was sent"

    def close(self) -> None:
        """Delete everything."""
        if self._folder is not None:
            self._folder.remove()


class Keepers:
    """Those of one connection."""

    def __init__(self) -> None:
        self._keepers: dict[str, Any] = {}

    def send(self, name: str, files: Sequence[str], key: str, nodes: Mapping[str, str]) -> dict[str, str]:
        """Send `files`, of which `name` is the only one or the folder, to `nodes` (id -> name in messages).

        The path of the copy of `name` by node; a node that was lost meanwhile is left out. key: a folder there that is
        of this name and content alone. Raises ClusterError where a node cannot keep them, or Ray has no room.
        """
        copies = dict.fromkeys(nodes, "")
        alone = list(files) == [name]
        try:
            for file in files:
                place = [key, Path(name).name] if alone else [key, Path(name).name, Path(file).name]
                calls = {node: self._keeper(node).begin.remote(place) for node in copies}
                begun = self._settle(calls, copies, nodes, name)
                copies = {node: path if alone else str(Path(path).parent) for node, (_, path) in begun.items()}
                self._pieces(file, copies, nodes, name)
        except ray_errors.RayError as error:
            words = str(error).strip().splitlines() or [""]
            raise ClusterError(
                f"{name} cannot be sent to nodes that lack it ({type(error).__name__}: {words[0]}); copy it there, to "
                "the same path"
            ) from error
        return copies

    def close(self) -> None:
        """Delete all copies; nodes that do not answer are not waited for long."""
        keepers, self._keepers = list(self._keepers.values()), {}
        if keepers and ray.is_initialized():
            with contextlib.suppress(ray_errors.RayError):
                ray.wait([k.close.remote() for k in keepers], num_returns=len(keepers), timeout=_END_S)
            for keeper in keepers:
                ray.kill(keeper, no_restart=True)

    def _pieces(self, file: str, copies: dict[str, str], nodes: Mapping[str, str], name: str) -> None:
        digest, waiting = hashlib.sha256(), dict[str, Any]()
        try:
            with open(file, "rb") as source:
                while piece := source.read(PIECE_BYTES):
                    digest.update(piece)
                    reference = ray.put(piece)
                    sent = {node: self._keepers[node].write.remote(reference) for node in copies}
                    self._settle(waiting, copies, nodes, name)
                    waiting = {node: call for node, call in sent.items() if node in copies}
        except OSError as error:
            raise ClusterError(f"{file}: cannot be read ({error.strerror}) to be sent to the nodes") from error
        self._settle(waiting, copies, nodes, name)
        ended = {node: self._keepers[node].end.remote(digest.hexdigest()) for node in copies}
        self._settle(ended, copies, nodes, name)

    def _keeper(self, node: str) -> Any:
        if node not in self._keepers:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            made: Any = ray.remote(CopyKeeper).options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
            self._keepers[node] = made.remote()
        return self._keepers[node]

    def _settle(
        self, calls: Mapping[str, Any], copies: dict[str, str], nodes: Mapping[str, str], name: str
    ) -> dict[str, Any]:
        """What came of `calls`; nodes whose keeper is gone are taken out of `copies`."""
        found = {}
        for node, reference in calls.items():
            try:
                said = ray.get(reference)
            except _GONE:
                copies.pop(node, None)
                self._keepers.pop(node, None)  # the next one sweeps what it left
                continue
            if wrong := said if isinstance(said, str) else said[0]:
                raise ClusterError(
                    f"node {nodes[node]} lacks {name}, and cannot keep a copy ({wrong}); copy it there, to the same "
                    "path"
                )
            found[node] = said
        return found


def _words(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
