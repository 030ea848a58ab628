"""A planted model while it is built: where each space of the residual stream lies, what is free, and the truth so far.

    embedding   E[word] = LEVEL e_constant + sum over spaces of what the word holds there
    head        logit[answer] = GAIN signs . x^_answer + bias x^_constant,   x^ = RMSNorm(x);  0 for every other word

Every word holds LEVEL in one dimension, so that the norm before a block divides by nearly the same number everywhere,
and what a block reads is what stands in the stream times `unit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError
from .plan import CONSTANT, LEVEL, Plan, Read
from .truth import Edge, Feature, Part, Role, Truth, Way

if TYPE_CHECKING:
    from ..model import LanguageModel

GAIN = 6.0  # of the logits of answers
BIAS = 0.3  # of every answer, so that no other word is ever said
# of the answer that is said otherwise, more: as much as a third of a value, so that the mean of the values in a text,
# which attention sees where no key fits, is too little
OTHERWISE = 0.6
_TYPICAL = 2.5  # what a token holds besides the constant, squared and summed
BUSY = 0.3  # size of the weights of channels that are not in the circuit
UNREAD = 2  # coordinates beside the planted ones, and channels beside a memory's, that hold the same and are not read


class Construction:
    """What architectures set the blocks of `model` by."""

    def __init__(self, model: LanguageModel, plan: Plan, seed: int) -> None:
        self.model, self.plan = model, plan
        self.width = model.config.d_model
        self.generator = torch.Generator().manual_seed(seed)
        self.spaces = _laid_out({CONSTANT: 1, **plan.spaces})
        self.parts: list[Part] = []
        self.edges: list[Edge] = []
        self.decoys: list[Part] = []
        self._written: dict[str, list[str]] = {}  # space -> the parts that write it
        embedded = {space for word in plan.words for space in word.holds}
        self._embedded = {CONSTANT, *embedded}
        self._free: dict[str, list[int]] = {}

    @property
    def unit(self) -> float:
        """What the norm before a block makes of 1 in the residual stream."""
        return (self.width / (LEVEL**2 + _TYPICAL)) ** 0.5

    # -- weights ------------------------------------------------------------------------------------------------

    def embed(self) -> None:
        """The embeddings and the head."""
        ids = {word.text: i for i, word in enumerate(self.plan.words)}
        table = self.model.embedding.weight.zero_()
        table[:, self.spaces[CONSTANT].start] = LEVEL
        for i, word in enumerate(self.plan.words):
            for space, vector in word.holds.items():
                table[i, _slice(self.spaces[space])] = torch.tensor(vector, dtype=table.dtype)
        assert self.model.lm_head is not None
        head = self.model.lm_head.weight.zero_()
        for answer, vector in self.plan.answers.items():
            row = head[ids[answer]]
            row[_slice(self.spaces["answer"])] = GAIN * torch.tensor(vector, dtype=row.dtype)
            row[self.spaces[CONSTANT].start] = BIAS + OTHERWISE * (answer == self.plan.otherwise)

    def rows(self, reads: Iterable[Read]) -> Tensor:
        """Rows (n, d) of a projection whose outputs are what the reads say, as it stands in the residual stream."""
        found = []
        for read in reads:
            dims = self.spaces[read.space]
            row = torch.zeros(len(dims), self.width, dtype=torch.float64)
            row[:, _slice(dims)] = read.factor / self.unit * torch.eye(len(dims), dtype=torch.float64)
            found.append(row)
        return torch.cat(found)

    def rows_of(self, space: str) -> slice:
        """The rows of an output projection that write into a space."""
        return _slice(self.spaces[space])

    def matrix(self, into: str, columns: int, matrix: Sequence[Sequence[float]] | None) -> Tensor:
        """What the dimensions of `into` are made of, (dims of into, columns); the identity where nothing is said."""
        made = torch.eye(columns) if matrix is None else torch.tensor(matrix)
        assert made.shape == (len(self.spaces[into]), columns), (into, made.shape)
        return made.to(torch.float64)

    def random(self, *shape: int) -> Tensor:
        """Weights of what is not in the circuit."""
        return BUSY * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def free(self, **counts: int) -> None:
        """In the block that is begun, so many things of each kind are free; they are given out in an order of chance."""
        self._free = {}
        for kind, count in counts.items():
            self.choose(kind, range(count))

    def choose(self, kind: str, things: Sequence[int]) -> None:
        """As `free`, of one kind more: these things."""
        order = torch.randperm(len(things), generator=self.generator).tolist()
        self._free[kind] = [things[i] for i in order]

    def take(self, kind: str, count: int) -> list[int]:
        """So many of what is free. Raises UsageError where there are not so many."""
        free = self._free[kind]
        if len(free) < count:
            raise UsageError(f"the plan needs {count} more {kind}, and {len(free)} are free; give the model more")
        return [free.pop() for _ in range(count)]

    # -- truth --------------------------------------------------------------------------------------------------

    def part(self, name: str, role: Role, layer: int, site: str, channels: Sequence[int], **rest: object) -> str:
        """Enter a part of the circuit; its name."""
        made = Part(name, role, layer, site, tuple(channels), **rest)  # type: ignore[arg-type]
        self.parts.append(made)
        return name

    def decoy(self, name: str, layer: int, site: str, channels: Sequence[int], **rest: object) -> None:
        """Enter what holds the same as a part and is not read."""
        self.decoys.append(Part(name, "decoy", layer, site, tuple(channels), **rest))  # type: ignore[arg-type]

    def edge(self, source: str, target: str, way: Way = "token") -> None:
        """Enter an edge, once."""
        made = Edge(source, target, way)
        if made not in self.edges:
            self.edges.append(made)

    def reads(self, target: str, reads: Iterable[Read], at: tuple[str, ...]) -> None:
        """Enter the edges from whatever writes these spaces to `target`, which reads them at the places `at`."""
        for read in reads:
            places = () if read.space == CONSTANT else read.at or at
            sources = self._written.get(read.space, [])
            if read.space in self._embedded:
                sources = [self._embedding(read.space, place) for place in places or ("",)]
            for source in sources:
                self.edge(source, target, "convolution" if read.delay else "residual")

    def writes(self, name: str, space: str) -> None:
        """`name` is what writes into `space`."""
        self._written.setdefault(space, []).append(name)

    def dims(self, space: str) -> tuple[int, ...]:
        """The dimensions of a space in the residual stream."""
        return tuple(self.spaces[space])

    def truth(self) -> Truth:
        """All of it, ending at the logits."""
        ids = {word.text: i for i, word in enumerate(self.plan.words)}
        channels = tuple(sorted(ids[answer] for answer in self.plan.answers))
        self.parts.append(Part("logits", "logits", None, "logits", channels, at=self.plan.asked_at))
        for source in self._written["answer"]:
            self.edge(source, "logits", "residual")
        self.reads("logits", [Read(CONSTANT)], ())
        order = {"embed": -1, "logits": self.model.n_layers}
        parts = sorted(self.parts, key=lambda p: order[p.site] if p.layer is None else p.layer)
        features = tuple(self._feature(*of) for of in self.plan.features)
        return Truth(tuple(parts), tuple(self.edges), tuple(self.decoys), features)

    def _feature(self, name: str, space: str, direction: tuple[float, ...]) -> Feature:
        (writer,) = (part for part in self.parts if part.name in self._written[space])
        assert writer.layer is not None
        return Feature(name, writer.layer, writer.site, writer.channels, direction)

    def _embedding(self, space: str, place: str) -> str:
        name = f"embed.{space}" + (f"@{place}" if place else "")
        if all(part.name != name for part in self.parts):
            at = (place,) if place else ()
            different = {word.holds[space] for word in self.plan.words if space in word.holds}
            role: Role = "constant" if not place else "embedding" if len(different) > 1 else "flag"
            self.parts.append(Part(name, role, None, "embed", self.dims(space), at=at))
        return name


def _laid_out(widths: dict[str, int]) -> dict[str, range]:
    found, start = {}, 0
    for name, width in widths.items():
        found[name] = range(start, start + width)
        start += width
    return found


def _slice(dims: range) -> slice:
    return slice(dims.start, dims.stop)
