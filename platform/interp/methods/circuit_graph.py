"""A model as a graph of edges that can each be cut: through the residual stream, the convolution and the state.

- residual: what a block's part adds to the stream, as one later part (or the head) reads it. Everything else still
  reads the clean one. Parts are a block's mixer and its feed-forward part; where both read the same stream (parallel
  blocks) they are one receiver.
- conv: what a mixer's convolution sees of earlier tokens, as its current token's inputs read it; all its channels, B
  and C among them where these are convolved too.
- state: what the read-out of a scan finds in the state of what earlier tokens wrote, by groups of neighbouring channels
  (or heads). What a token reads of its own write, and the skip D x, stays.

In a state-space block a token hears of earlier ones by the last two ways alone. Attention and implicit filters have no
edge inside of a block, and a recurrence whose states others enter has none through its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ...models.access.sites import Site
from .recurrences import LayerRecurrence, scans_of

if TYPE_CHECKING:
    from ...models import LanguageModel

Kind = Literal["residual", "conv", "state"]
HEAD = "head"


class Receiver(NamedTuple):
    """A part that reads the residual stream. pre: the site of the stream as it reads it; post: the next one, at which
    what was changed for this part alone is taken back (None: nothing else reads it)."""

    name: str
    layer: int | None
    pre: str
    post: str | None


class Edge(NamedTuple):
    """sender, receiver: names of parts, `embed`, `blocks.0.mixer_out`, `blocks.1.mixer_in`, `head`; within a block the
    site that is read and its block's read-out. channels: start and stop of a state's channels, else None."""

    kind: Kind
    sender: str
    receiver: str
    layer: int | None
    channels: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Both ends, with the channels where there are groups."""
        part = "" if self.channels is None else f"[{self.channels[0]}:{self.channels[1]}]"
        return f"{self.sender}{part} > {self.receiver}"


class Convolution(NamedTuple):
    """site: of its window. scan: where x = silu(conv(x_in)) is all that is convolved, the scan that reads x; None: B
    and C or others are convolved too, and the window has to be replaced step by step."""

    site: str
    scan: LayerRecurrence | None


class Graph(NamedTuple):
    """senders: sites that add to the residual stream, in the order of a forward pass."""

    edges: tuple[Edge, ...]
    senders: tuple[str, ...]
    receivers: tuple[Receiver, ...]
    convolutions: tuple[Convolution, ...]
    scans: tuple[LayerRecurrence, ...]

    def residual(self, receiver: Receiver) -> list[tuple[int, str]]:
        """Numbers and senders of the edges to `receiver`."""
        return [(i, e.sender) for i, e in enumerate(self.edges) if e.kind == "residual" and e.receiver == receiver.name]


def graph_of(model: LanguageModel, layers: Sequence[int], state_groups: int) -> Graph:
    """The edges into the blocks `layers` and the head, in the order of a forward pass.

    state_groups: into how many groups of neighbouring units (channels, or heads) a scan's state is divided at most.
    """
    known = {site.name: site for site in model.sites()}
    senders, receivers, edges = ["embed"], list[Receiver](), list[Edge]()
    convolutions, scans = list[Convolution](), list[LayerRecurrence]()
    for layer in range(model.n_layers):
        prefix = f"blocks.{layer}."
        wanted = layer in layers
        parallel = prefix + "mlp_out" in known and prefix + "resid_mid" not in known
        middle = prefix + "resid_mid" if prefix + "resid_mid" in known else prefix + "resid_post"
        if wanted:
            name = prefix + ("parts_in" if parallel else "mixer_in")
            receivers.append(Receiver(name, layer, prefix + "resid_pre", middle))
            edges += [Edge("residual", sender, name, layer) for sender in senders]
            for name, site in known.items():
                if name.startswith(prefix) and name.endswith(".conv_state") and site.editable:
                    reader = next((s for s in scans_of(model, layer) if _alone(s, name, known)), None)
                    convolutions.append(Convolution(name, reader))
                    edges.append(Edge("conv", name, prefix + "mixer", layer))
            for scan in scans_of(model, layer):
                scans.append(scan)
                edges += [
                    Edge("state", scan.prefix + "h", scan.prefix + "y", layer, span)
                    for span in _groups(len(scan.of.A), int(known[scan.inputs[0]].axes[0]), state_groups)
                ]
        if prefix + "mixer_out" in known:
            senders.append(prefix + "mixer_out")
        if prefix + "mlp_out" in known:
            if wanted and not parallel:
                name = prefix + "mlp_in"
                receivers.append(Receiver(name, layer, middle, prefix + "resid_post"))
                edges += [Edge("residual", sender, name, layer) for sender in senders]
            senders.append(prefix + "mlp_out")
    receivers.append(Receiver(HEAD, None, f"blocks.{model.n_layers - 1}.resid_post", None))
    edges += [Edge("residual", sender, HEAD, None) for sender in senders]
    return Graph(tuple(edges), tuple(senders), tuple(receivers), tuple(convolutions), tuple(scans))


def _alone(scan: LayerRecurrence, window: str, known: Mapping[str, Site]) -> bool:
    """Whether the convolution with this window is the scan's, and of nothing but its x."""
    if scan.of.around is None or window != scan.prefix + "conv_state":
        return False
    return known[window].axes[0] == known[scan.prefix + scan.of.around.x_in].axes[0]


def _groups(units: int, channels: int, count: int) -> list[tuple[int, int]]:
    """Start and stop, in channels, of `count` groups of neighbouring units, fewer where there are fewer units."""
    width, count = channels // units, min(count, units)
    cuts = [units * i // count * width for i in range(count + 1)]
    return list(zip(cuts, cuts[1:], strict=False))
