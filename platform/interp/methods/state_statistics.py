"""One pass over prompts for `diagnostics`: states, gates, read weights and extreme values, a row for each.

Every prompt is read by itself, so that a row does not depend on what else is in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.batches import Batch
from ..engine.places import places
from .anomalies import opened, peak_of, sink_of
from .recurrences import LayerRecurrence, recurrences_of
from .typed_tensors import lengths
from .watched_sites import selective_sites
from .weight_measures import effective_rank

if TYPE_CHECKING:
    from ...models import LanguageModel

BATCH_SCHEMA = pa.schema(
    [("what", pa.string()), ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()),
     ("status", pa.string()), ("rank", pa.float64()), ("growth", pa.float64()),
     ("norms", pa.list_(pa.float64())), ("kind", pa.string()), ("closed", pa.int64()), ("open", pa.int64()),
     ("total", pa.int64()), ("share", pa.float64()), ("uniform", pa.float64()), ("position", pa.int32()),
     ("token", pa.int32()), ("value", pa.float64()), ("median", pa.float64()), ("channel", pa.int32()),
     ("massive", pa.int64()), ("low", pa.list_(pa.float64())), ("high", pa.list_(pa.float64()))]
)  # fmt: skip
Rows = Iterator[dict[str, Any]]


@torch.no_grad()
def batch_seen(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of the items in arguments["ids"]."""
    layers, known = arguments["layers"], {site.name for site in model.sites()}
    asked = places(model, layers, arguments["sites"])
    decays = [decay for layer in layers for decay in recurrences_of(model, layer)]
    wanted = {place.name for place in asked}
    for decay in decays:
        wanted |= {*selective_sites(decay).values(), *_gate(decay)} & known
    rows: list[dict[str, Any]] = []
    for item in (item for item in batch.items if item.id in arguments["ids"]):
        length = len(item.prompt)
        steps = sorted({p for p in arguments["positions"] if p < length} | {length - 1})
        states = [f"{decay.prefix}h@[{','.join(map(str, steps))}]" for decay in decays if f"{decay.prefix}h" in known]
        with model.capture(*sorted(wanted), *states) as captured:
            model(torch.tensor([item.prompt], device=batch.device), last_only=True)

        def of(name: str, captured: Any = captured) -> Tensor:
            return captured[name][0].cpu()

        found: list[dict[str, Any]] = []
        for decay in decays:
            about = {"layer": decay.layer, "site": decay.site}
            if f"{decay.prefix}h" in known:
                found.append({"what": "state"} | about | _state(of(f"{decay.prefix}h"), steps))
            found += (about | row for row in _gates(decay, of, arguments["flat"]))
            if len(selective_sites(decay)) == 3:
                found.append({"what": "sink"} | about | _sink(decay, of, item.prompt))
        for place in asked:
            value = {"what": "value", "layer": place.layer, "site": place.site}
            found.append(value | _value(of(place.name), item.prompt, arguments))
        rows += ({"id": item.id} | row for row in found)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


_LOST = {"status": "model_nonfinite"}


def _state(h: Tensor, steps: Sequence[int]) -> dict[str, Any]:
    """h (steps, E, N). growth: slope of ln |h| over ln of the tokens read."""
    h = h.double()
    if not bool(torch.isfinite(h).all()):
        return _LOST
    norms: NDArray[np.float64] = lengths(h.flatten(1)).numpy()
    row: dict[str, Any] = {"rank": effective_rank(h[-1].flatten(1)), "norms": norms, "status": "ok"}
    if len(steps) > 1 and norms.all():
        row["growth"] = float(np.polyfit(np.log(np.add(steps, 1)), np.log(norms), 1)[0])
    return row


def _gate(decay: LayerRecurrence) -> list[str]:
    """The site before the silu that multiplies what the scan says; only where nothing else is around the scan."""
    return [] if decay.of.around is None else [decay.prefix + decay.of.around.gate]


def _gates(decay: LayerRecurrence, of: Any, flat: float) -> Rows:
    named = [("softplus", decay.name("delta"))] if decay.of.delta is not None else []
    for kind, name in [*named, *(("sigmoid", name) for name in _gate(decay))]:
        values, row = of(name), {"what": "gate", "site": name.split(".", 2)[2], "kind": kind}
        if not bool(torch.isfinite(values).all()):
            yield row | _LOST
            continue
        yield row | opened(values, kind, flat)._asdict() | {"status": "ok"}


def _sink(decay: LayerRecurrence, of: Any, prompt: Sequence[int]) -> dict[str, Any]:
    delta, B, C = (of(decay.name(quantity)) for quantity in ("delta", "B", "C"))
    if not all(bool(torch.isfinite(v).all()) for v in (delta, B, C)):
        return _LOST
    sink = sink_of(decay, delta, *(v.unflatten(-1, (decay.of.groups, -1)) for v in (B, C)))
    if sink is None:
        return {"status": "not_applicable"}
    return sink._asdict() | {"token": prompt[sink.position], "status": "ok"}


def _value(x: Tensor, prompt: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not bool(torch.isfinite(x).all()):
        return _LOST
    peak = peak_of(x, least=arguments["massive_least"], ratio=arguments["massive_ratio"])
    ends = {"low": x.double().amin(0).numpy(), "high": x.double().amax(0).numpy()}
    return peak._asdict() | ends | {"token": prompt[peak.position], "status": "ok"}
