"""The passes of `causal_neurons`: what replacing channels, and whole mixers' outputs, does to the prompts of a batch.

All functions are for `Job.map`. Their arguments: `sites` and `layers`, `means` by full name of a site, the kind of
`ablation` with its `draws`, and `asked`, the ids of the prompts that are ablated.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ...models.access.edits import Edit, Replace
from ...runtime.plan import digest_of
from ..engine.batches import Batch
from ..engine.places import Place, places
from .channel_ablation import OUTPUT, Ablations, Outcome, SetChannel, first_order_effects, replacements
from .typed_tensors import floats, lengths, unit_rows

if TYPE_CHECKING:
    from ...models import LanguageModel

FIRST_ORDER_SCHEMA = pa.schema(
    [("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("alone", pa.bool_()),
     ("effects", pa.list_(pa.float64()))]
)  # fmt: skip
EXACT_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("channel", pa.int32()),
    ("effect", pa.float64()), ("kl", pa.float64()), ("moved", pa.list_(pa.float64())),
])  # fmt: skip
#: control: a random move of equal size; moved: of the blocks above, in their order
INFLUENCE_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("control", pa.bool_()), ("effect", pa.float64()),
    ("kl", pa.float64()), ("moved", pa.list_(pa.float64())),
])  # fmt: skip


def first_watched(place: Place) -> int:
    """The first block whose mixer's output a channel of this place can move, other than by being it."""
    return place.layer + (place.site == OUTPUT)


def batch_first_order(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each prompt and site: effects of all channels to first order, null where they are not finite, or where
    the prompt is alone in its batch and is to be resampled from others."""
    found = places(model, arguments["layers"], arguments["sites"])
    means = {place.name: _mean(arguments, place.name, batch.device) for place in found}
    effects = first_order_effects(model, batch, means, arguments["ablation"], arguments["draws"])
    rows: list[dict[str, Any]] = []
    for place in found:
        of_site = effects.get(place.name)
        for i, item in enumerate(batch.items):
            values = None if of_site is None or not bool(torch.isfinite(of_site[i]).all()) else of_site[i].cpu().numpy()
            about = {"id": item.id, "layer": place.layer, "site": place.site, "alone": of_site is None}
            rows.append(about | {"effects": values})
    return pa.Table.from_pylist(rows, schema=FIRST_ORDER_SCHEMA)


@torch.no_grad()
def batch_exact(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each asked prompt and each of the `channels` of a site, by full name."""
    batch = _asked(batch, arguments)
    if not batch.items:
        return EXACT_SCHEMA.empty_table()
    found = [p for p in places(model, arguments["layers"], arguments["sites"]) if p.name in arguments["channels"]]
    run = Ablations(model, batch, [place.name for place in found], arguments["rows_at_once"])
    rows: list[dict[str, Any]] = []
    for place in found:
        x, channels = run.values[place.name], list(arguments["channels"][place.name])
        mean = _mean(arguments, place.name, x.device)
        draws = [
            run(place.layer, len(channels), partial(_set_channels, place.name, channels, value), first_watched(place))
            for value in replacements(x, run.lengths, arguments["ablation"], mean, arguments["draws"])
        ]
        if draws:
            outcome = Outcome.mean(draws)
            for k, channel in enumerate(channels):
                about = {"layer": place.layer, "site": place.site, "channel": channel}
                rows += [about | row for row in _rows(outcome, k, batch)]
    return pa.Table.from_pylist(rows, schema=EXACT_SCHEMA)


def _set_channels(name: str, channels: list[int], value: Tensor, part: range) -> Edit:
    """The channels of `part`, one for each copy of the rows, replaced by those of value (B, T, C)."""
    chosen = torch.tensor([channels[k] for k in part], device=value.device)
    values = value[:, :, chosen].movedim(2, 0).flatten(0, 1)  # (ablations x B, T)
    return SetChannel(name, chosen.repeat_interleave(len(value)), values)


@torch.no_grad()
def batch_influence(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Two rows for each asked prompt and block: its mixer's output replaced, and moved as far in random directions."""
    batch = _asked(batch, arguments)
    if not batch.items:
        return INFLUENCE_SCHEMA.empty_table()
    names = {layer: f"blocks.{layer}.{OUTPUT}" for layer in arguments["layers"]}
    run = Ablations(model, batch, list(names.values()), arguments["rows_at_once"])
    rows: list[dict[str, Any]] = []
    for layer, name in names.items():
        x = run.values[name]
        mean = _mean(arguments, name, x.device)
        draws: list[Outcome] = []
        for value in replacements(x, run.lengths, arguments["ablation"], mean, arguments["draws"]):
            directions = torch.stack([_directions(x[i], arguments["seed"], item.id, layer)
                                      for i, item in enumerate(batch.items)])  # fmt: skip
            control = x + lengths(value - x)[..., None] * directions
            # an edit takes finite values alone; a prompt that has others is left out by its answer
            both = torch.nan_to_num(torch.cat([value, control]))
            size = len(x)

            def edit(part: range, name: str = name, both: Tensor = both, size: int = size) -> Edit:
                return Replace(name, both[part.start * size : part.stop * size])

            draws.append(run(layer, 2, edit, layer + 1))
        if draws:
            outcome = Outcome.mean(draws)
            for k, control in enumerate((False, True)):
                rows += [{"layer": layer, "control": control} | row for row in _rows(outcome, k, batch)]
    return pa.Table.from_pylist(rows, schema=INFLUENCE_SCHEMA)


def _directions(x: Tensor, seed: int, id_: str, layer: int) -> Tensor:
    """A random unit vector for each token of x (T, d)."""
    generator = torch.Generator().manual_seed(int(digest_of([seed, id_, layer])[:15], 16))
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return unit_rows(drawn).to(x)


def _rows(outcome: Outcome, k: int, batch: Batch) -> list[dict[str, Any]]:
    """Of ablation k, for each prompt; without values where its scores are not finite."""
    effect, kl = floats(outcome.effect[k]), floats(outcome.kl[k])
    moved = [[float(of[k, i]) for of in outcome.moved.values()] for i in range(len(batch.items))]
    return [
        {"id": item.id} | ({} if e != e else {"effect": e, "kl": d, "moved": m})
        for item, e, d, m in zip(batch.items, effect, kl, moved, strict=True)
    ]


def _mean(arguments: Mapping[str, Any], name: str, device: torch.device) -> Tensor:
    return torch.tensor(arguments["means"][name], dtype=torch.float64, device=device)


def _asked(batch: Batch, arguments: Mapping[str, Any]) -> Batch:
    asked = frozenset(arguments["asked"])
    return Batch([item for item in batch.items if item.id in asked], batch.device)
