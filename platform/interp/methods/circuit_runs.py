"""Forward passes in which chosen edges of a model carry another run's values: circuits, and what they leave out.

An edge that is cut carries to its receiver, and to it alone, what the *source* run (the corrupted prompt) has there:

    residual:  r'_j = r + sum over cut senders i of (out_i of the source - out_i of this run)
    conv:      the window of earlier inputs is the source's, the current input this run's
    state:     y'_t = y_t + past_t of the source - past_t of this run,  past_t = C_t . exp(Delta_t A) h_{t-1}

Everything is recomputed from there on (Conmy et al., arXiv 2304.14997). With no edge cut a run is the clean one to the
bit; with all of them cut it gives the corrupted one's logits. Rows of a batch may have different edges cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from ...core.errors import ToleranceError, UsageError
from ...models.access.edits import Edit
from .circuit_graph import Graph, Receiver
from .cuts import Rewrite
from .recurrences import LayerRecurrence, Scan
from .taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.run import Run

ROWS = 64  # prompts times circuits that go through the model together
_ADDITIVE = 1e-3  # of the stream's size: how far it may be from the sum of what the parts add to it


class Source(NamedTuple):
    """What a run held: logits (B, V); by site (B, T, ...) what senders added, and what windows held or what earlier
    inputs add to the convolution (`circuit_graph.Convolution`); by a scan's prefix what its read-out found of earlier
    tokens (B, T, E)."""

    logits: Tensor
    values: Mapping[str, Tensor]
    past: Mapping[str, Tensor]


def own_share(scan: Scan) -> Tensor:
    """What y (B, T, E) holds of the token itself: the read-out of its own write, and the skip."""
    per_unit = torch.einsum("btgn,btgn->btg", scan.C, scan.B)
    by_unit = per_unit.repeat_interleave(scan.units // scan.B.shape[2], -1) * scan.delta
    written = torch.unflatten(scan.x, -1, (scan.units, -1)) * by_unit[..., None]
    return written.flatten(2) + scan.skip


def past_of(recurrence: LayerRecurrence, values: Mapping[str, Tensor]) -> Tensor:
    """C_t . exp(Delta_t A) h_{t-1} (B, T, E), from values of the scan's inputs and outputs."""
    y = torch.cat([values[name] for name in recurrence.outputs], -1)
    return y - own_share(recurrence.rebuild(values)).to(y.dtype)


def x_in_of(scan: LayerRecurrence) -> str:
    """The site that the convolution before a scan reads."""
    assert scan.of.around is not None
    return scan.prefix + scan.of.around.x_in


def past_inputs(scan: LayerRecurrence, x_in: Tensor) -> Tensor:
    """What earlier inputs add to the convolution's output at each step (B, T, E)."""
    assert scan.of.around is not None
    taps = scan.of.around.taps.to(x_in)
    total, reach = torch.zeros_like(x_in), taps.shape[1] - 1
    for lag in range(1, min(reach, x_in.shape[1] - 1) + 1):
        total[:, lag:] += x_in[:, :-lag] * taps[:, reach - lag]
    return total


def shifted_convolution(scan: LayerRecurrence, shift: Callable[[Tensor], Tensor]) -> list[Edit]:
    """x = silu(c) becomes silu(c + shift), where `shift` is a function of what earlier inputs add to c."""
    around, seen = scan.of.around, dict[str, Tensor]()
    assert around is not None

    def changed(x: Tensor) -> Tensor:
        x_in = seen["x_in"]
        past = past_inputs(scan, x_in)
        c = past + x_in * around.taps[:, -1].to(x_in) + around.bias.to(x_in)
        return x + (silu(c + shift(past)) - silu(c)).to(x.dtype)

    return [Watch(x_in_of(scan), partial(_store, seen, "x_in")), Rewrite(scan.inputs[0], function=changed)]


def sites_of(graph: Graph) -> list[str]:
    """The sites whose values a `Source` needs."""
    inside = [name for scan in graph.scans for name in (*scan.inputs, *scan.outputs)]
    convolved = [c.site if c.scan is None else x_in_of(c.scan) for c in graph.convolutions]
    return list(dict.fromkeys([*graph.senders, *convolved, *inside]))


@torch.no_grad()
def source_of(model: LanguageModel, graph: Graph, tokens: Tensor, mask: Tensor) -> Source:
    """The run of tokens (B, T). Raises ToleranceError where the stream is not the sum of what the parts add to it."""
    last = f"blocks.{model.n_layers - 1}.resid_post"
    with model.capture(*sites_of(graph), last) as acts:
        logits = model(tokens, mask, last_only=True)[:, 0]
    stream, total = acts[last], sum(acts[name] for name in graph.senders)
    gap, size = (stream - total)[mask].abs().max(), stream[mask].abs().max()
    if bool(gap > _ADDITIVE * size):
        raise ToleranceError(
            f"model {model.name}: the residual stream is not the sum of what its blocks add to it (up to {gap:.2g} of "
            f"{size:.2g} is missing), so that it has no edges; leave out `circuits` and `patching`"
        )
    past = {scan.prefix: past_of(scan, acts) for scan in graph.scans}
    values = {name: acts[name] for name in graph.senders}
    for convolution in graph.convolutions:
        scan, name = convolution.scan, convolution.site
        values[name] = acts[name] if scan is None else past_inputs(scan, acts[x_in_of(scan)])
    return Source(logits, values, past)


@torch.no_grad()
def cut_logits(
    model: LanguageModel, graph: Graph, tokens: Tensor, mask: Tensor, cut: Tensor, source: Source, rows: int = ROWS
) -> Tensor:
    """Final logits (K, B, V) of tokens (B, T), for each of the K patterns of cut edges (K, n_edges) bool.

    rows: prompts times patterns that go through the model at once; the result does not depend on it but for rounding.
    """
    at_once, n = max(1, rows // len(tokens)), len(tokens)
    found: list[Tensor] = []
    for start in range(0, len(cut), at_once):
        part = cut[start : start + at_once]
        index = torch.arange(n, device=tokens.device).repeat(len(part))
        edits = cut_edits(graph, part.repeat_interleave(n, 0).to(tokens.device), source, index)
        with ExitStack() as stack:
            if edits:
                stack.enter_context(model.edit(*edits))
            logits = model(tokens.repeat(len(part), 1), mask.repeat(len(part), 1), last_only=True)[:, 0]
        found.append(logits.unflatten(0, (len(part), n)))
    return torch.cat(found)


def cut_edits(graph: Graph, cut: Tensor, source: Source, index: Tensor) -> list[Edit]:
    """The edits of one forward pass by which row r has the edges in row r of cut (R, n_edges) cut, from row index[r] of
    the source."""
    edits: list[Edit] = []
    current: dict[str, Tensor] = {}
    needed = {e.sender for i, e in enumerate(graph.edges) if e.kind == "residual" and bool(cut[:, i].any())}
    edits += [Watch(name, partial(_store, current, name)) for name in graph.senders if name in needed]
    for receiver in graph.receivers:
        here = [(sender, cut[:, i]) for i, sender in graph.residual(receiver) if bool(cut[:, i].any())]
        if here:
            edits += _shifted(receiver, here, current, source, index)
    conv = {e.sender: cut[:, i] for i, e in enumerate(graph.edges) if e.kind == "conv"}
    for site, scan in graph.convolutions:
        if bool(conv[site].any()):
            edits += _other_inputs(site, scan, source.values[site], index, conv[site])
    for scan in graph.scans:
        its = [(i, e) for i, e in enumerate(graph.edges) if e.kind == "state" and e.sender == scan.prefix + "h"]
        if any(bool(cut[:, i].any()) for i, _ in its):
            past = source.past[scan.prefix]
            weight = torch.zeros(len(cut), past.shape[-1], dtype=past.dtype, device=past.device)
            for i, edge in its:
                assert edge.channels is not None
                weight[:, slice(*edge.channels)] = cut[:, i, None].to(past.dtype)
            edits += _other_past(scan, past, weight, index)
    return edits


def _store(into: dict[str, Tensor], name: str, x: Tensor, lengths: Tensor) -> None:
    into[name] = x


def _shifted(
    receiver: Receiver, senders: Sequence[tuple[str, Tensor]], current: Mapping[str, Tensor], source: Source,
    index: Tensor,
) -> list[Edit]:  # fmt: skip
    pending: list[Tensor] = []

    def shift(x: Tensor) -> Tensor:
        change = torch.zeros_like(x)
        for name, rows in senders:
            at = rows.nonzero()[:, 0]
            difference = source.values[name][index[at]] - current[name][at]
            change.index_add_(0, at, difference.to(x.dtype))
        pending.append(change)
        return x + change

    edits: list[Edit] = [Rewrite(receiver.pre, function=shift)]
    if receiver.post is not None:
        edits.append(Rewrite(receiver.post, function=lambda x: x - pending.pop()))
    return edits


def _other_inputs(
    site: str, scan: LayerRecurrence | None, past: Tensor, index: Tensor, rows: Tensor
) -> list[Edit]:  # fmt: skip
    """In `rows` (R,) the convolution sees the earlier inputs of the source."""
    if scan is None:
        return [MixWindow(site, source=past, index=index, rows=rows)]

    def shift(own: Tensor) -> Tensor:
        return rows[:, None, None].to(own.dtype) * (past[index].to(own.dtype) - own)

    return shifted_convolution(scan, shift)


def _other_past(scan: LayerRecurrence, past: Tensor, weight: Tensor, index: Tensor) -> list[Edit]:
    """y + weight (R, E) * (past of the source - past of this run)."""
    seen: dict[str, Tensor] = {}
    edits: list[Edit] = [Watch(name, partial(_store, seen, name)) for name in scan.inputs]

    def changed(number: int, x: Tensor) -> Tensor:
        part = slice(number * x.shape[2], (number + 1) * x.shape[2])  # y is divided evenly
        own = own_share(scan.rebuild(seen))[..., part].to(x.dtype)
        return x + weight[:, None, part].to(x.dtype) * (past[index][..., part].to(x.dtype) - (x - own))

    edits += [Rewrite(name, function=partial(changed, number)) for number, name in enumerate(scan.outputs)]
    return edits


@dataclass(frozen=True, eq=False)
class MixWindow(Edit):
    """The convolution's window of `rows` (R,) bool after every step is the source's (B, T, E, k - 1), row index[r].

    A source (1, 1, E, k - 1) is the same for all rows and steps. Raises UsageError at a site that is no window.
    """

    kind: ClassVar[str] = "mix_window"
    site: str
    source: Tensor
    index: Tensor
    rows: Tensor

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        same = self.source.shape[:2] == (1, 1)
        other = (self.source[0, 0] if same else self.source[self.index, column]).to(x.dtype)
        return torch.where(self.rows[:, None, None], other, x), True

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a window exists only at chosen steps")


@dataclass(frozen=True, eq=False)
class AddToWindow(Edit):
    """Adds steps[t] (B, E, k - 1) to the convolution's window after step t; for derivatives by it.

    Raises UsageError at a site that is no window.
    """

    kind: ClassVar[str] = "add_to_window"
    site: str
    steps: Sequence[Tensor]

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        return x + self.steps[column].to(x.dtype), True

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a window exists only at chosen steps")
