"""What is true of a planted model: the parts of its circuit, how they are connected, and what only looks like it.

A part is a place in the forward pass: channels of a site of a block, for states also coordinates. An edge says that one
part computes with another one, and by which way it comes there. Decoys hold what a part holds, and nothing reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ...core.errors import UsageError, suggest

Role = Literal["embedding", "flag", "constant", "value", "key", "query", "gate", "state", "read", "output", "logits", "decoy"]
#: how a source reaches its target: within a token, by the residual stream from a block below, or from earlier tokens
Way = Literal["token", "residual", "convolution", "state", "attention"]


@dataclass(frozen=True)
class Part:
    """Channels of one site.

    layer: number of the block, None for `embed` and `logits`. site: relative to its block. channels: on the site's first
    axis behind batch and time. coordinates: of states, on the second axis; () where a site has none. at: names of the
    places in a prompt (`Prompt.places`) where the part does its work; a state holds from the first to the last of them,
    () is everywhere. path: of a circuit that stands there several times, which one; "" for what there is once.
    """

    name: str
    role: Role
    layer: int | None
    site: str
    channels: tuple[int, ...]
    coordinates: tuple[int, ...] = ()
    at: tuple[str, ...] = ()
    path: str = ""

    @property
    def full_site(self) -> str:
        """The site's whole name, as captures and edits take it."""
        return self.site if self.layer is None else f"blocks.{self.layer}.{self.site}"

    @property
    def cells(self) -> frozenset[tuple[int, int]]:
        """(channel, coordinate) of a state."""
        return frozenset((c, n) for c in self.channels for n in self.coordinates)


@dataclass(frozen=True)
class Edge:
    """`target` computes with what `source` holds; both are names of parts."""

    source: str
    target: str
    way: Way


@dataclass(frozen=True)
class Feature:
    """A direction that stands for one thing: on `channels` of `site` of a block it is `direction`, elsewhere zero."""

    name: str
    layer: int
    site: str
    channels: tuple[int, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Truth:
    """The circuit: parts in the order of the forward pass, edges, features that share dimensions, and decoys."""

    parts: tuple[Part, ...]
    edges: tuple[Edge, ...]
    decoys: tuple[Part, ...] = ()
    features: tuple[Feature, ...] = ()

    def part(self, name: str) -> Part:
        """The part or decoy called `name`; UsageError with the nearest one where there is none."""
        known = {part.name: part for part in (*self.parts, *self.decoys)}
        if name not in known:
            raise UsageError(f"the circuit has no part {name!r}; {suggest(name, known)}")
        return known[name]

    def of(self, *roles: Role, layer: int | None = None) -> tuple[Part, ...]:
        """The parts that play one of these roles, in every block or in one."""
        return tuple(p for p in self.parts if p.role in roles and layer in (None, p.layer))

    @cached_property
    def redundant(self) -> tuple[tuple[str, ...], ...]:
        """The names of the parts of each path, where each path alone suffices; () where there is one circuit only."""
        paths = dict.fromkeys(part.path for part in self.parts if part.path)
        return tuple(tuple(part.name for part in self.parts if part.path == path) for path in paths)

    def differing(self, place: str) -> frozenset[str]:
        """The parts that may hold something else, at their own places, once the word at `place` is another one of its
        kind: what is read there, and all that is computed from it. Every other part of the circuit holds the same."""
        found = {part.name for part in self.parts if part.role == "embedding" and place in part.at}
        while more := {e.target for e in self.edges if e.source in found} - found:
            found |= more
        return frozenset(found)

    def carrying(self, place: str) -> tuple[Edge, ...]:
        """The edges over which that difference comes to the answer."""
        found = self.differing(place)
        return tuple(edge for edge in self.edges if edge.source in found)
