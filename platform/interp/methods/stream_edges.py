"""An edge through the residual stream as a part that is replaced: what one part adds, as one later part alone reads it.

All other parts read what they read before, as in `circuit_runs`, which cuts edges of a whole graph; here the value that
the edge carries is any donor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...core.errors import UsageError, suggest
from ...models.access.edits import Edit
from .circuit_graph import Receiver, graph_of
from .cuts import Rewrite
from .donor import Donor
from .taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

ARROW = " > "  # between sender and receiver in an edge's name


@dataclass(frozen=True)
class StreamEdge:
    """From the site that a part adds to the stream, such as `blocks.0.mixer_out`, to a part that reads it,
    `blocks.2.mixer_in` or `head`. Raises UsageError for an edge that the model has not."""

    sender: str
    receiver: str

    @property
    def name(self) -> str:
        """As `circuits` names it."""
        return f"{self.sender}{ARROW}{self.receiver}"

    def sites(self, model: LanguageModel) -> list[str]:
        self._receiver(model)
        return [self.sender]

    def size(self, model: LanguageModel) -> int:
        return next(int(site.axes[0]) for site in model.sites() if site.name == self.sender)

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        receiver = self._receiver(model)
        own: dict[str, Tensor] = {}
        pending: list[Tensor] = []

        def watch(x: Tensor, lengths: Tensor) -> None:
            own[self.sender] = x

        def shift(x: Tensor) -> Tensor:
            mine = own[self.sender][donor.rows]
            change = x.new_zeros(x.shape)
            change[donor.rows] = (donor.at(self.sender, mine) - mine).to(x.dtype)
            pending.append(change)
            return x + change

        edits: list[Edit] = [Watch(self.sender, watch), Rewrite(receiver.pre, function=shift)]
        if receiver.post is not None:
            edits.append(Rewrite(receiver.post, function=lambda x: x - pending.pop()))
        return edits

    def _receiver(self, model: LanguageModel) -> Receiver:
        graph = graph_of(model, range(model.n_layers), 1)
        known = [f"{e.sender}{ARROW}{e.receiver}" for e in graph.edges if e.kind == "residual"]
        if self.name not in known:
            raise UsageError(f"{model.name} has no edge {self.name!r} through the stream; {suggest(self.name, known)}")
        return next(receiver for receiver in graph.receivers if receiver.name == self.receiver)


def stream_edges(model: LanguageModel, layers: Sequence[int]) -> list[StreamEdge]:
    """All edges through the stream into these blocks and the head, in the order of a forward pass."""
    return [StreamEdge(e.sender, e.receiver) for e in graph_of(model, layers, 1).edges if e.kind == "residual"]
