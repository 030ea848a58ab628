"""What the nodes of a cluster lack, known before work is given to them.

A node that has another mplat or none, or does not see what it has to, is refused, all of them in one error; what can be
sent to a node that lacks it is sent (`copy_keeper`). A node that is gone or says nothing in time is left out: what its
worker would lack is asked again once a worker comes up there.

    ready = preflight.of(factory, nodes, record)     ClusterError: what is wrong, node by node
    ready.copies()                                   node -> {name: path of its copy}, for the actors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ClusterError
from .installation import difference, installation
from .node_answers import fingerprint
from .node_questions import ANSWER_S, Answer, Node, ask, living_nodes
from .plan import digest_of
from .pool import WorkerFactory

if TYPE_CHECKING:
    from .copy_keeper import Keepers

_ATTEMPTS = 3  # to make one node ready again


@dataclass(frozen=True)
class Wanted:
    """What a node has to have. files: name -> the files it stands for, which are sent to a node that lacks one. needs:
    paths that it has to see. here: the `fingerprint` of all of them in this process."""

    files: Mapping[str, Sequence[str]]
    needs: Sequence[str]
    here: Mapping[str, str | None]

    @classmethod
    def by(cls, files: Mapping[str, Sequence[str]], needs: Sequence[str] = ()) -> Wanted:
        """With the fingerprints; a name whose files are gone here is left to whoever opens it."""
        sent = {path: fingerprint(path, content=True) for several in files.values() for path in several}
        there = {name: several for name, several in files.items() if all(sent[path] for path in several)}
        return cls(there, needs, {path: fingerprint(path, content=False) for path in needs} | sent)

    def key(self, name: str) -> str:
        """Of the copies of `name`: another for another content."""
        return digest_of([name, [self.here[path] for path in self.files[name]]])[:16]


@dataclass
class _Known:
    """Of a node that has the same mplat."""

    name: str
    saw: dict[str, str | None] = field(default_factory=dict)
    shares: dict[Path, bool | None] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)  # key of `Wanted` -> path
    repairs: int = 0

    def lacks(self, name: str, wanted: Wanted) -> bool:
        """Whether it sees another file than we, or none, and has no copy."""
        seen = all(self.saw.get(path) == wanted.here[path] for path in wanted.files[name])
        return not seen and wanted.key(name) not in self.copies


class Preflight:
    """What is known of the nodes of one connection."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._silent: set[str] = set()  # once is long enough to wait for one
        self._keepers: Keepers | None = None

    def of(
        self, factory: WorkerFactory, nodes: Sequence[Node], record: Path | None = None, *, shared: bool = False
    ) -> Ready:
        """Make `nodes` ready for workers of this factory. record: of the run, of whose folder is noted who sees it.
        shared: each of them has to.

        Raises ClusterError naming what each node lacks that cannot be sent to it, or where no node answers.
        """
        wanted = Wanted.by(factory.files, factory.needs)
        self.make_ready(nodes, wanted, record, shared=shared)
        return Ready(self, wanted)

    def make_ready(
        self, nodes: Sequence[Node], wanted: Wanted, record: Path | None = None, *, shared: bool = False
    ) -> None:
        """See `of`."""
        asked = [node for node in nodes if self._asks(node, wanted, record, shared)]
        content = {path: path not in wanted.needs for path in wanted.here}
        answers = ask(asked, content, record) if asked else []
        wrong: dict[str, list[str]] = {}  # what it is -> the nodes of which it is true
        for one in answers:
            if words := _trouble(one, wanted, record if shared else None):
                wrong.setdefault(words, []).append(f"node {one.node.name}")
        if wrong:
            each = "; ".join(f"{', '.join(names)}: {words}" for words, names in wrong.items())
            count = sum(map(len, wrong.values()))
            raise ClusterError(f"{count} of {len(nodes)} nodes cannot do this work: {each}")
        for one in answers:
            known = self._known.setdefault(one.node.id, _Known(one.node.name))
            known.saw |= one.saw
            if record is not None:
                known.shares[record] = one.shares
        self._silent |= {node.id for node in asked} - {one.node.id for one in answers}
        if nodes and not any(node.id in self._known for node in nodes):
            self._silent.clear()
            names = ", ".join(node.name for node in nodes)
            raise ClusterError(f"no node answered within {ANSWER_S:.0f} s ({names}); look at them with `ray status`")
        for name in wanted.files:
            self._send(name, wanted, [self._known[node.id] for node in nodes if node.id in self._known])

    def copies(self, wanted: Wanted) -> dict[str, dict[str, str]]:
        """By node, for those that lack nothing, the names that have another path there."""
        ready = {
            node: known
            for node, known in self._known.items()
            if not any(known.lacks(name, wanted) for name in wanted.files)
        }
        return {
            node: {name: known.copies[key] for name in wanted.files if (key := wanted.key(name)) in known.copies}
            for node, known in ready.items()
        }

    def repair(self, node: str, wanted: Wanted) -> None:
        """Make a node ready on which a worker came up that lacks something: it joined late, or lost its copies.

        Raises ClusterError as `of` does, and where that was done too often."""
        nodes = [one for one in living_nodes() if one.id == node]
        for one in nodes:
            known = self._known.setdefault(node, _Known(one.name))
            self._silent.discard(node)
            known.copies.clear()
            known.repairs += 1
            if known.repairs > _ATTEMPTS:
                raise ClusterError(f"node {one.name} loses the copies that are sent to it; copy the files there")
            self.make_ready([one], wanted)

    def sees(self, record: Path) -> dict[str, bool | None]:
        """Which of the nodes that were asked see the folder of `record`, by their names."""
        return {known.name: known.shares[record] for known in self._known.values() if record in known.shares}

    def close(self) -> None:
        """Delete the copies."""
        if self._keepers is not None:
            self._keepers.close()

    def _asks(self, node: Node, wanted: Wanted, record: Path | None, shared: bool) -> bool:
        """Whether it is not known already that the node has everything."""
        known = self._known.get(node.id)
        if known is None:
            return node.id not in self._silent
        if any(known.saw.get(path) != wanted.here[path] for path in wanted.needs):
            return True
        if record is not None and (record not in known.shares or (shared and not known.shares[record])):
            return True
        return any(known.lacks(name, wanted) for name in wanted.files)

    def _send(self, name: str, wanted: Wanted, nodes: Sequence[_Known]) -> None:
        lacking = {node: known for node, known in self._known.items() if known in nodes and known.lacks(name, wanted)}
        if not lacking:
            return
        if self._keepers is None:
            from .copy_keeper import Keepers

            self._keepers = Keepers()
        named = {node: known.name for node, known in lacking.items()}
        sent = self._keepers.send(name, wanted.files[name], wanted.key(name), named)
        for node, copy in sent.items():
            lacking[node].copies[wanted.key(name)] = copy


@dataclass(frozen=True)
class Ready:
    """The nodes, made ready for one pool."""

    preflight: Preflight
    wanted: Wanted

    def copies(self) -> dict[str, dict[str, str]]:
        """See `Preflight.copies`."""
        return self.preflight.copies(self.wanted)

    def repair(self, node: str) -> None:
        """See `Preflight.repair`."""
        self.preflight.repair(node, self.wanted)


def _trouble(answer: Answer, wanted: Wanted, record: Path | None) -> str:
    """Why the node cannot do the work, as it goes on behind names; empty where it can. record: whose folder it has
    to see."""
    if answer.error:
        return f"{answer.error}; install the same mplat and Python there"
    if other := difference(answer.installation, installation()):
        return other
    unseen = [path for path in wanted.needs if answer.saw.get(path) != wanted.here[path]]
    if unseen:
        more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
        which = "does not see" if answer.saw.get(unseen[0]) is None else "has another"
        return f"{which} {unseen[0]}{more}; copy it there, to the same path, or use a folder that every node shares"
    if record is not None and answer.shares is False:
        return f"does not see the folder {record.parent}; name one with --out that every node shares"
    return ""
