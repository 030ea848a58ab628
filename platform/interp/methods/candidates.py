"""What may be claimed to carry an answer: a candidate, which is one or several parts of a model, each replaceable.

    Candidate("state of block 0", "state", (Coordinates("blocks.0.mixer.", ((5, 3), (11, 3))),))

A part says which sites' values another run has to hold for it (`sites`), and gives the edits that put these in its
place in some rows of a batch (`edits`). Ablation (zero, mean, another prompt's values) and patching (the clean run's
values in the corrupted run) are the same operation with another source (`donor`). Another kind of part is a class with
these methods and an entry in `PARTS`; beside those of this file there are latents of autoencoders (`latents`) and edges
through the residual stream (`stream_edges`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.access.edits import Edit
from ...models.access.sites import expand, parse
from ...models.kernels import selective_scan
from .arguments import is_list
from .circuit_runs import MixWindow
from .cuts import Rewrite
from .donor import Donor, Part, put
from .latents import Latents
from .recurrences import LayerRecurrence, Scan, scans_of
from .stream_edges import ARROW, StreamEdge
from .taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class Channels:
    """Channels of a site with one value per token and channel; None: all of them. others: all but these."""

    site: str
    channels: tuple[int, ...] | None = None
    others: bool = False

    def sites(self, model: LanguageModel) -> list[str]:
        return [self.site]

    def size(self, model: LanguageModel) -> int:
        width = _width(model, self.site)
        chosen = width if self.channels is None else len(self.channels)
        return width - chosen if self.others else chosen

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        def replaced(x: Tensor) -> Tensor:
            mine = x[donor.rows]
            other = donor.at(self.site, mine)
            if self.channels is not None:
                mask = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
                mask[list(self.channels)] = True
                other = torch.where(~mask if self.others else mask, other, mine)
            return put(x, donor.rows, other)

        return [Rewrite(self.site, function=replaced)]


@dataclass(frozen=True)
class Direction:
    """What a site holds along some directions, orthonormal vectors (n, C) in its space; the rest stays. others: what it
    holds across them instead."""

    site: str
    vectors: tuple[tuple[float, ...], ...]
    others: bool = False

    def sites(self, model: LanguageModel) -> list[str]:
        return [self.site]

    def size(self, model: LanguageModel) -> int:
        return _width(model, self.site) - len(self.vectors) if self.others else len(self.vectors)

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        def replaced(x: Tensor) -> Tensor:
            basis = torch.tensor(self.vectors, dtype=x.dtype, device=x.device)
            mine = x[donor.rows]
            other = donor.at(self.site, mine)
            along = (other - mine) @ basis.T @ basis
            return put(x, donor.rows, other - along if self.others else mine + along)

        return [Rewrite(self.site, function=replaced)]


@dataclass(frozen=True)
class Coordinates:
    """(channel, coordinate) pairs of the recurrent state of the scan `prefix`, at every step before its read-out; None:
    the whole state. others: all but these.

    Replaced states are read by this run's C: y_t + sum over them of C_t (h_t of the donor - h_t). With zeros or means,
    h_t of the donor is the same at all steps (site `h`, (1, 1, E, N)).
    """

    prefix: str
    pairs: tuple[tuple[int, int], ...] | None = None
    others: bool = False

    def sites(self, model: LanguageModel) -> list[str]:
        return list(self._scan(model).inputs)

    def size(self, model: LanguageModel) -> int:
        channels, coordinates = state_shape(model, self._scan(model))
        chosen = channels * coordinates if self.pairs is None else len(self.pairs)
        return channels * coordinates - chosen if self.others else chosen

    def _scan(self, model: LanguageModel) -> LayerRecurrence:
        layer = int(self.prefix.split(".")[1])
        found = next((scan for scan in scans_of(model, layer) if scan.prefix == self.prefix), None)
        if found is None:
            raise UsageError(f"block {layer} has no selective scan {self.prefix!r} whose state could be replaced")
        return found

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        scan = self._scan(model)
        seen: dict[str, Tensor] = {}
        edits: list[Edit] = [Watch(name, partial(_store, seen, name)) for name in scan.inputs]

        def changed(number: int, x: Tensor) -> Tensor:
            here = scan.rebuild({name: value[donor.rows] for name, value in seen.items()})
            change = -self._read(here)
            if donor.values is not None and self.prefix + "h" in donor.values:
                change = change + self._read_fixed(here, donor.values[self.prefix + "h"][0, 0].to(here.x))
            elif donor.values is not None:
                other = {name: donor.at(name, value[donor.rows]) for name, value in seen.items()}
                change = change + self._read(scan.rebuild(other)._replace(C=here.C))
            first = number * x.shape[2]  # y is divided evenly
            part = change[..., first : first + x.shape[2]].to(x.dtype)
            return put(x, donor.rows, x[donor.rows] + part)

        edits += [Rewrite(name, function=partial(changed, number)) for number, name in enumerate(scan.outputs)]
        return edits

    def _read(self, scan: Scan) -> Tensor:
        """What y (n, T, E) holds of the chosen coordinates' states."""
        if self.pairs is None:
            return torch.zeros_like(scan.x) if self.others else scan.read_out(scan.x)
        chosen = read_pairs(scan, self.pairs)
        return scan.read_out(scan.x) - chosen if self.others else chosen

    def _read_fixed(self, scan: Scan, state: Tensor) -> Tensor:
        """The same of a state (E, N) that does not change."""
        mask = torch.full_like(state, float(self.pairs is None))
        for channel, coordinate in self.pairs or ():
            mask[channel, coordinate] = 1.0
        group = scan.group_of(torch.arange(len(state), device=state.device) // scan.unit_width)
        return torch.einsum("en,bten->bte", state * (1 - mask if self.others else mask), scan.C[:, :, group])


@dataclass(frozen=True)
class Window:
    """What a convolution sees of earlier tokens: the site `conv_state`, after every step."""

    site: str

    def sites(self, model: LanguageModel) -> list[str]:
        return [self.site]

    def size(self, model: LanguageModel) -> int:
        return next(int(s.axes[0]) * int(s.axes[1]) for s in model.sites() if s.name == self.site)

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        if donor.values is None:
            shape = next(tuple(int(axis) for axis in s.axes) for s in model.sites() if s.name == self.site)
            source = torch.zeros(1, 1, *shape, device=donor.rows.device)
        else:
            source = donor.values[self.site]
        return [MixWindow(self.site, source=source, index=donor.index, rows=donor.rows)]


PARTS: Mapping[str, Callable[..., Part]] = {
    kind.__name__: kind for kind in (Channels, Direction, Coordinates, Window, Latents, StreamEdge)
}


@dataclass(frozen=True)
class Candidate:
    """name: for tables. kind: what sort of thing it is, for ranking within it. layer: None where it is in several."""

    name: str
    kind: str
    parts: tuple[Part, ...]
    layer: int | None = None

    def sites(self, model: LanguageModel) -> list[str]:
        """Full names of the sites whose values a donor has to hold."""
        return list(dict.fromkeys(name for part in self.parts for name in part.sites(model)))

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        """The edits that replace all its parts."""
        return [edit for part in self.parts for edit in part.edits(model, donor)]

    def size(self, model: LanguageModel) -> int:
        """How many numbers per token it is."""
        return sum(part.size(model) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the arguments of a batch function and for tables."""
        parts = [{"part": type(part).__name__} | vars(part) for part in self.parts]
        return {"name": self.name, "kind": self.kind, "layer": self.layer, "parts": parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_json`."""
        parts: list[Part] = []
        for entry in value["parts"]:
            fields = {name: _tuples(v) for name, v in entry.items() if name != "part"}
            parts.append(PARTS[entry["part"]](**fields))
        return cls(value["name"], value["kind"], tuple(parts), value["layer"])


def read_pairs(scan: Scan, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """What y (B, T, E) holds of single coordinates (channel, coordinate): each is scanned as a channel of its own."""
    channel, coordinate = torch.tensor(list(pairs), device=scan.x.device).T
    unit = channel // scan.unit_width
    group = scan.group_of(unit)
    A = scan.A[unit, coordinate if scan.A.shape[1] > 1 else torch.zeros_like(coordinate)]
    written = (scan.x[..., channel] * scan.B[:, :, group, coordinate]).contiguous()
    one = torch.ones_like(written[..., :1])
    h = selective_scan(written, scan.delta[..., unit].contiguous(), A[:, None].contiguous(), one, one)
    assert isinstance(h, Tensor)
    return torch.zeros_like(scan.x).index_add(2, channel, h * scan.C[:, :, group, coordinate])


def together(candidates: Sequence[Candidate], name: str, kind: str) -> Candidate:
    """All of them as one."""
    layers = {candidate.layer for candidate in candidates}
    layer = layers.pop() if len(layers) == 1 else None
    return Candidate(name, kind, tuple(part for c in candidates for part in c.parts), layer)


def named(model: LanguageModel, text: str) -> Candidate:
    """A candidate of the caller's: selections of sites joined by `+`, such as `blocks.0.mixer_out[3,4]` or, for
    channels of a state with all their coordinates, `blocks.0.mixer.h[5]`; or an edge through the residual stream,
    `blocks.0.mixer_out > blocks.2.mixer_in`.

    Raises UsageError for what the model has not.
    """
    parts: list[Part] = []
    layers: set[str] = set()
    for one in text.split("+"):
        if ARROW in one:
            edge = StreamEdge(*one.strip().split(ARROW, 1))
            edge.sites(model)  # one that is not there is refused now
            parts.append(edge)
            layers.add(edge.receiver.removeprefix("blocks.").split(".")[0])
            continue
        selection = parse(one)
        if selection.positions is not None:
            raise UsageError(f"candidate {text!r}: it is replaced at all tokens; leave the positions out")
        for site in expand(selection, model.sites()):
            prefix, _, last = site.name.rpartition(".")
            layers.add(site.name.split(".")[1])
            if last == "h":
                wide, channels = int(site.axes[1]), selection.channels
                pairs = None if channels is None else tuple((int(c), n) for c in channels for n in range(wide))
                part: Part = Coordinates(prefix + ".", pairs)
                part.sites(model)  # a state that cannot be rebuilt is refused now
            elif site.constant or not site.editable or len(site.axes) != 1:
                raise UsageError(f"candidate {text!r}: {site.name} has not one value per token and channel")
            else:
                part = Channels(site.name, selection.channels)
            parts.append(part)
    layer = int(next(iter(layers))) if len(layers) == 1 and next(iter(layers)).isdecimal() else None
    return Candidate(text, "named", tuple(parts), layer)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if is_list(value) else value


def _store(into: dict[str, Tensor], name: str, x: Tensor, lengths: Tensor) -> None:
    into[name] = x


def state_shape(model: LanguageModel, scan: LayerRecurrence) -> tuple[int, int]:
    """(E, N): channels of a scan, and coordinates of each."""
    of = scan.of
    if of.A.shape[1] > 1 or of.B is None:
        return _width(model, scan.inputs[0]), of.A.shape[1]
    N = _width(model, scan.prefix + of.B) // of.groups if isinstance(of.B, str) else of.B.shape[-1]
    return _width(model, scan.inputs[0]), N


def _width(model: LanguageModel, site: str) -> int:
    return next(int(s.axes[0]) for s in model.sites() if s.name == site)
