"""What every channel of some sites does to the answer of each question, to first order, by one backward pass; and what
taking sets of channels away does in fact. Both functions are for `Job.map`.

The effect of a channel is the change of the answer's log-probability when it stays at its mean at every token,

    effect[q, c] = sum_t (mean[c] - a[t, c]) d log p(answer of q) / d a[t, c]

the mean being over the tokens of all questions. It is summed from parts that a batch can know without the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.access.edits import Add, Replace
from ...models.shuffled import shuffled
from ..engine.batches import Batch
from .site_readings import answers_of
from .taps import Gain, Watch
from .typed_tensors import ints, nested

if TYPE_CHECKING:
    from ...models import LanguageModel

Floats = NDArray[np.float64]
_LISTS = ("moved", "slope", "total", "last")
EFFECTS = pa.schema([
    ("id", pa.string()), ("draw", pa.int32()), ("site", pa.string()), ("tokens", pa.int32()),
    *((name, pa.list_(pa.float32())) for name in _LISTS),
])  # fmt: skip
ABLATIONS = pa.schema([("id", pa.string()), ("group", pa.int32()), ("logprob", pa.float64())])


class ReadEffects(NamedTuple):
    """Of n questions `ids` and N channels, those of all sites one after the other: effects and values at the prompt's
    last token (n, N), means over tokens (N,)."""

    ids: tuple[str, ...]
    effects: Floats
    last: Floats
    means: Floats


@dataclass(frozen=True)
class _Seen:
    """Sums over tokens and the value at the last one of each row, filled while the pass runs."""

    at: Tensor
    values: dict[str, tuple[Tensor, Tensor]]

    def see(self, site: str, x: Tensor, lengths: Tensor) -> None:
        real = torch.arange(x.shape[1], device=x.device)[None, :, None] < lengths[:, None, None]
        rows = torch.arange(len(x), device=x.device)
        found = x.detach()
        self.values[site] = (torch.where(real, found, 0.0).sum(1), found[rows, self.at])


def batch_effects(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of `EFFECTS` for each question, draw and site; draw -1 is the model as it is. What is not finite has no row.

    arguments: sites, names in full; shuffled, seeds of copies with shuffled weights.
    """
    rows = _rows(model, batch, -1, arguments["sites"])
    for draw, seed in enumerate(arguments["shuffled"]):
        rows += _rows(shuffled(model, seed), batch, draw, arguments["sites"])
    return pa.Table.from_pylist(rows, schema=EFFECTS)


@torch.enable_grad()
def _rows(model: LanguageModel, batch: Batch, draw: int, sites: Sequence[str]) -> list[dict[str, Any]]:
    answered = batch.answered()
    width = {site.name: int(site.axes[0]) for site in model.sites() if site.name in sites}
    options: dict[str, Any] = {"dtype": model.dtype, "device": model.device, "requires_grad": True}
    size = len(batch.items)
    gains = [torch.ones(size, width[site], **options) for site in sites]
    shifts = [torch.zeros(size, 1, width[site], **options) for site in sites]
    seen = _Seen(torch.tensor([len(item.prompt) - 1 for item in batch.items], device=batch.device), {})
    edits: list[Any] = []
    for site, gain, shift in zip(sites, gains, shifts, strict=True):
        watch = Watch(site, lambda x, lengths, site=site: seen.see(site, x, lengths))
        edits += [watch, Gain(site, gain), Add(site, shift)]
    with model.edit(*edits):
        scores = answers_of(model, answered)
    # rows of a batch do not meet, so the gradient of the sum is every row's own
    gradients = torch.autograd.grad(scores.logprob.sum(), [*gains, *shifts])
    lengths = ints(answered.mask.sum(1))
    rows: list[dict[str, Any]] = []
    for number, site in enumerate(sites):
        total, last = seen.values[site]
        parts = [gradients[number], gradients[number + len(sites)][:, 0], total, last]
        finite = nested(scores.finite & torch.stack([part.isfinite().all(1) for part in parts]).all(0))
        held = [part.float().cpu().numpy() for part in parts]
        rows += [
            {"id": item.id, "draw": draw, "site": site, "tokens": lengths[i]}
            | {name: part[i] for name, part in zip(_LISTS, held, strict=True)}
            for i, item in enumerate(batch.items) if finite[i]
        ]  # fmt: skip
    return rows


def read_effects(table: pa.Table, sites: Sequence[str], ids: Sequence[str], draw: int = -1) -> ReadEffects | None:
    """What `EFFECTS` rows say of those of `ids` that have a row of `draw` at every site; None where none has."""
    rows = table.filter(pc.equal(table["draw"], draw))
    named = list(zip(rows["id"].to_pylist(), rows["site"].to_pylist(), strict=True))
    place = {key: number for number, key in enumerate(named)}
    kept = tuple(id_ for id_ in ids if all((id_, site) in place for site in sites))
    if not kept:
        return None
    lists = {name: _lists(rows[name]) for name in _LISTS}
    tokens = rows["tokens"].to_numpy()

    def of(name: str, site: str) -> Floats:
        return np.stack([lists[name][place[id_, site]] for id_ in kept]).astype(np.float64)

    effects: list[Floats] = []
    values: list[Floats] = []
    means: list[Floats] = []
    for site in sites:
        mean = of("total", site).sum(0) / float(sum(tokens[place[id_, site]] for id_ in kept))
        effects.append(mean * of("slope", site) - of("moved", site))
        values.append(of("last", site))
        means.append(mean)
    return ReadEffects(kept, np.concatenate(effects, 1), np.concatenate(values, 1), np.concatenate(means))


@torch.no_grad()
def batch_ablations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Log-probabilities of the answers of questions of a batch: group -1 as the model is, group g with the channels of
    its parts at their means at every token.

    arguments: asked, two lists of ids; groups, each of them parts {site, channels, mean}, and `asks` the number of the
    list that answers it.
    """
    rows: list[dict[str, Any]] = []
    for half, ids in enumerate(arguments["asked"]):
        named = Batch([item for item in batch.items if item.id in ids], batch.device)
        if not named.items:
            continue
        answered = named.answered()
        its = [(number, group["parts"]) for number, group in enumerate(arguments["groups"]) if group["asks"] == half]
        as_it_is: tuple[int, list[Any]] = (-1, [])
        for number, parts in [as_it_is, *its]:
            with model.edit(*[Replace(part["site"], part["mean"], channels=part["channels"]) for part in parts]):
                scores = answers_of(model, answered)
            rows += [
                {"id": item.id, "group": number, "logprob": float(scores.logprob[i]) if scores.finite[i] else None}
                for i, item in enumerate(named.items)
            ]
    return pa.Table.from_pylist(rows, schema=ABLATIONS)


def _lists(column: pa.ChunkedArray) -> list[NDArray[np.float32]]:
    """A column of lists as arrays, without a Python number for each entry."""
    whole = column.combine_chunks()
    whole = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    ends = np.asarray(whole.offsets)
    values = np.asarray(whole.values)
    return [values[start:stop] for start, stop in zip(ends[:-1], ends[1:], strict=True)]
