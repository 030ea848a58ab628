"""Knock-out: cut what target positions read from source positions, in chosen layers, and see what the answer loses.

For targets I, sources J and layers W, each scan in W runs a second time with only the writes of J; what I reads of that
is taken away from y there. This equals a scan with w_j = 0 for j in J whose y is taken only at I. The state itself is
not touched: other positions read what they read before, the skip D x and the convolution stay, and what they carry from
J to I travels on. `block_conv` cuts the convolution's taps from J to I as well; a target's own input it never cuts.

A cut may be confined to channels or single state coordinates, given or chosen by how fast they forget.
Attention beside or between the scans of a hybrid is not cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.lending import label
from ..engine.columns import column
from .arguments import integers, is_list
from .asked import check_finite, chosen_layers, evaluating, prompt_positions
from .corruption import token_row
from .cuts import cut_edits
from .decay_groups import decay_groups
from .metric import make_metric
from .recurrences import LayerRecurrence, refuse_state_edits, require_scans, scans_of
from .table import text_metadata
from .typed_tensors import floats, ints, nested

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("layers", pa.list_(pa.int32()), "blocks cut at once"),
    column("group", pa.string(), "the channels or state coordinates that were cut; all, or the name of a group"),
    column("coordinates", pa.int64(), "state coordinates cut, summed over these blocks"),
    column("p", pa.float64(), "probability of the answer with the cut"),
    column("effect", pa.float64(), "(p - p0) / p0: relative change of the answer's probability; null where p0 is 0"),
])  # fmt: skip

#: channels of a scan: their numbers, or a mask over channels (E) or state coordinates (E, N)
Channels = Sequence[int] | Tensor
_ROWS = 16  # cuts that go through the model together


class _Cut(NamedTuple):
    """One row of the table: layers, the group's name, and by scan prefix the mask (E, N) of what is cut."""

    layers: tuple[int, ...]
    group: str
    masks: Mapping[str, Tensor]


def knockout(
    model: LanguageModel,
    tokens: Tensor,
    targets: int | Sequence[int],
    sources: int | Sequence[int],
    layers: Sequence[int] | Sequence[Sequence[int]] | None = None,
    *,
    channels: Channels | Mapping[str, Channels] | None = None,
    decay: int | Sequence[float] | None = None,
    block_conv: bool = False,
    answer: int | None = None,
) -> pa.Table:
    """What the answer's probability loses when `targets` no longer read `sources` through the scans of `layers`.

    tokens (T): the prompt. targets, sources: positions; a target that is a source no longer reads its own write.
    layers: blocks cut at once; several such windows give a row each (`layer_windows` makes sliding ones); None: all
    blocks with a scan. channels: numbers of channels, a mask (E) or (E, N), or several of these by name, a row each;
    decay: instead, a number of groups or borders of half-life in tokens (`decay_groups`), for each scan by its own.
    answer: token id; None: what the model says.

    Returns a table of `SCHEMA`, by window, then group; its metadata holds p0 (without a cut) and the arguments.
    Raises UsageError for positions or layers that are not there, blocks without a selective scan of their own states,
    and channels the scans do not have.
    """
    text = token_row(model, tokens, "tokens")
    cut_at, cut_from = _positions(targets, len(text), "targets"), _positions(sources, len(text), "sources")
    if channels is not None and decay is not None:
        raise UsageError("knockout: give channels or decay, not both")
    refuse_state_edits(model, "a knock-out", *(["conv_state", "conv_init"] if block_conv else []))
    windows = _windows(model, layers)
    scans = require_scans(model, tuple(sorted({layer for window in windows for layer in window})), "knockout")
    with evaluating(model), torch.no_grad():
        names = [name for scan in scans for name in scan.inputs]
        with model.capture(*names) as acts:
            said = model(text[None], last_only=True)[0, -1]
        check_finite(model, said)
        judge = make_metric("prob", answer, said, said[None])
        p0 = float(judge(said[None])[0])
        groups = {scan.prefix: _masks(scan, acts, channels, decay) for scan in scans}
        cuts = _cuts(windows, scans, groups)
        p: list[float] = []
        for start in range(0, len(cuts), _ROWS):
            part = cuts[start : start + _ROWS]
            edits = [
                edit
                for scan in scans
                for edit in cut_edits(scan, [c.masks.get(scan.prefix) for c in part], cut_at, cut_from, block_conv)
            ]
            with model.edit(*edits):
                logits = model(text.expand(len(part), -1), last_only=True)[:, -1]
            p += floats(judge(logits))
    rows = [
        {"layers": list(cut.layers), "group": cut.group, "coordinates": sum(int(m.sum()) for m in cut.masks.values()),
         "p": value, "effect": (value - p0) / p0 if p0 > 0.0 else None}
        for cut, value in zip(cuts, p, strict=True)
    ]  # fmt: skip
    about = {
        "p0": p0, "answer": judge.answer, "answer_given": judge.given, "targets": cut_at, "sources": cut_from,
        "block_conv": block_conv, "length": len(text), "model": label(model),
    }  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(text_metadata(about)))


def layer_windows(n_layers: int, width: int) -> list[tuple[int, ...]]:
    """All windows of `width` neighbouring blocks, lowest first. Raises UsageError unless 1 <= width <= n_layers."""
    if not 1 <= width <= n_layers:
        raise UsageError(f"a window of {width} blocks; this model has {n_layers}, so it can be 1 to {n_layers}")
    return [tuple(range(start, start + width)) for start in range(n_layers - width + 1)]


def _windows(model: LanguageModel, layers: Sequence[int] | Sequence[Sequence[int]] | None) -> list[tuple[int, ...]]:
    if layers is None:
        having = tuple(layer for layer in range(model.n_layers) if scans_of(model, layer))
        require_scans(model, having or (0,), "knockout")
        return [having]
    given = nested(layers) if isinstance(layers, Tensor) else layers
    if not is_list(given):
        raise UsageError(f"knockout: layers is a list of blocks, or of windows of blocks, not {layers!r}")
    several = [is_list(window) for window in given]
    if any(several) != all(several):
        raise UsageError(f"knockout: layers {given} mixes blocks and windows of blocks; give one or the other")
    windows = given if given and all(several) else [given]
    return [chosen_layers(model, window) for window in windows]


def _positions(given: int | Sequence[int], length: int, what: str) -> list[int]:
    return prompt_positions([given] if isinstance(given, int) else given, length, what)


def _masks(
    scan: LayerRecurrence,
    acts: Mapping[str, Tensor],
    channels: Channels | Mapping[str, Channels] | None,
    decay: int | Sequence[float] | None,
) -> dict[str, Tensor]:
    """The groups of one scan: masks (E, N) by name."""
    values = scan.rebuild(acts)
    if decay is not None:
        return decay_groups(values, decay)
    shape = values.state_shape
    if channels is None:
        return {"all": torch.ones(shape, dtype=torch.bool, device=values.x.device)}
    named = channels if isinstance(channels, Mapping) else {"given": channels}
    if not named:
        raise UsageError("knockout: channels is empty; leave it out to cut all")
    return {name: _mask(chosen, shape, scan, name).to(values.x.device) for name, chosen in named.items()}


def _mask(chosen: Channels, shape: tuple[int, int], scan: LayerRecurrence, name: str) -> Tensor:
    width = shape[0]
    form = f"knockout: channels {name!r} of block {scan.layer}"
    if isinstance(chosen, Tensor) and chosen.dtype == torch.bool:
        if tuple(chosen.shape) not in ((width,), shape):
            raise UsageError(f"{form}: a mask of shape {tuple(chosen.shape)}; it must be ({width},) or {shape}")
        mask = chosen if chosen.ndim == 2 else chosen[:, None].expand(shape)
    else:
        index = integers(ints(chosen) if isinstance(chosen, Tensor) else chosen, form)
        wrong = [i for i in index if not -width <= i < width]
        if wrong:
            raise UsageError(f"{form}: there is no channel {wrong[0]}; the scan has channels 0 to {width - 1}")
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[index] = True
    if not bool(mask.any()):
        raise UsageError(f"{form}: selects nothing")
    return mask


def _cuts(
    windows: Sequence[tuple[int, ...]], scans: Sequence[LayerRecurrence], groups: Mapping[str, Mapping[str, Tensor]]
) -> list[_Cut]:
    names = list(dict.fromkeys(name for masks in groups.values() for name in masks))
    cuts: list[_Cut] = []
    for window in windows:
        for name in names:
            masks = {s.prefix: groups[s.prefix][name] for s in scans if s.layer in window and name in groups[s.prefix]}
            cuts.append(_Cut(window, name, masks))
    return cuts
