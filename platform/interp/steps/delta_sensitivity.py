"""Which channels vary over text: moments of the step size Delta and of the mixer's output, over the prompts' tokens.

A channel whose Delta hardly varies forgets and writes at a fixed rate; one whose Delta varies much chooses. This is
one of the detectors of bottlenecks and no proof of one: variance says nothing about effect (see `bottlenecks`).

The pass is a stream: each site's tensor is reduced where it arises, nothing is held. A prompt with a value that is not
finite at a site is left out there and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..engine.batches import Batch
from ..engine.columns import column, ranks
from ..engine.effort import of_channels
from ..engine.places import SITE_WORDS, check_sites, places, rows_at
from ..engine.step import Job, Sites, StepSettings, Tables, step
from ..engine.view import MapPart, View
from ..methods.moments import Moments, merge_rows, moments_of
from ..methods.taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    sites: Sites = ("mixer.delta?", "mixer_out")
    """sites of each block (with ?: where the model has it) with one value per token and channel"""


SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("channel", pa.int32(), "channel of the site"),
    column("n", pa.int64(), "real tokens counted"),
    column("mean", pa.float64(), "mean over tokens; null where n is 0"),
    column("variance", pa.float64(), "population variance over tokens; null where n is 0"),
    column("cv", pa.float64(), "standard deviation / |mean|, for sites of positive values; null where the mean is 0"),
    column("rank", pa.int32(), "1 is the channel of largest variance at this layer and site; ties by channel"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out here because a value was not finite"),
    column("status", pa.string(), "ok, or model_nonfinite where no prompt was left"),
])  # fmt: skip

BATCH_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("site", pa.string()), ("n", pa.int64()), ("n_prompts", pa.int32()),
     ("n_nonfinite", pa.int32()), ("mean", pa.list_(pa.float64())), ("m2", pa.list_(pa.float64()))]
)  # fmt: skip


VIEW = View(
    "Which channels vary over text",
    "Moments over all tokens of all prompts. Variance says nothing about effect: see `bottlenecks`.",
    (
        MapPart(
            rows="layer",
            columns="channel",
            value="variance",
            each=("site",),
            title="Variance of {site}",
            explains="How much the channel varies over the tokens of the prompts. A channel that varies chooses; it "
            "need not matter. Channels without any variance are blank.",
            scale="log",
            words=SITE_WORDS,
        ),
    ),
)


@step("delta_sensitivity", version=1, settings=Settings, check=check_sites, view=VIEW, cost=of_channels(1.5, bytes=32))
def delta_sensitivity(job: Job) -> Tables:
    """Mean and variance of Delta and of the mixer's output per channel, over all tokens."""
    arguments = {"layers": list(job.layers), "sites": list(job.settings.sites)}
    rows = job.map(batch_moments, BATCH_SCHEMA, arguments).to_pylist()
    result: list[dict[str, Any]] = []
    for place in places(job.model, job.layers, job.settings.sites):
        parts = rows_at(rows, place.layer, place.site)
        total = merge_rows(parts, place.channels)
        common = {
            "layer": place.layer,
            "site": place.site,
            "n": total.n,
            "n_prompts": sum(r["n_prompts"] for r in parts),
            "n_nonfinite": sum(r["n_nonfinite"] for r in parts),
        }
        result += _channel_rows(common, total)
    return {"": pa.Table.from_pylist(result, schema=SCHEMA)}


def _channel_rows(common: dict[str, Any], total: Moments) -> list[dict[str, Any]]:
    if total.n == 0:
        return [common | {"channel": c, "status": "model_nonfinite"} for c in range(len(total.mean))]
    variance = total.variance
    rank = ranks(variance)
    return [
        common
        | {
            "channel": c,
            "mean": float(total.mean[c]),
            "variance": float(variance[c]),
            "cv": float(np.sqrt(variance[c]) / abs(total.mean[c])) if total.mean[c] else None,
            "rank": int(rank[c]),
            "status": "ok",
        }
        for c in range(len(variance))
    ]


@torch.no_grad()
def batch_moments(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Moments of one batch: a row for each layer and site."""
    rows: list[dict[str, Any]] = []

    def watch(layer: int, site: str, name: str) -> Watch:
        def see(x: Tensor, lengths: Tensor) -> None:
            prompts = [x[i, : int(n)].double().cpu().numpy() for i, n in enumerate(lengths)]
            finite = [p for p in prompts if np.isfinite(p).all()]
            moments = moments_of(np.concatenate(finite) if finite else np.zeros((0, x.shape[2])))
            rows.append({
                "layer": layer, "site": site, "n": moments.n, "n_prompts": len(finite),
                "n_nonfinite": len(prompts) - len(finite), "mean": moments.mean, "m2": moments.m2,
            })  # fmt: skip

        return Watch(name, see)

    tokens, mask = batch.prompts()
    watched = places(model, arguments["layers"], arguments["sites"])
    with model.edit(*[watch(p.layer, p.site, p.name) for p in watched]):
        model(tokens, mask)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
