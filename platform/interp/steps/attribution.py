"""How much each channel contributes to the right answer, to first order: gradient times activation.

    attribution[c] = mean over prompts of  sum over tokens t of  a[t, c] * d log p(answer) / d a[t, c]

that is, the derivative of the answer's log-probability by a common factor on the channel. One backward pass per batch
gives it for all layers and sites. It is the slope at the model as it is, not the effect of taking the channel away:
`bottlenecks` measures that. The same over either half of the prompts (`batches.halves`) is for choosing channels on
prompts other than those on which the choice is tested.

A prompt whose answer or gradient is not finite is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..engine.answers import score_answers
from ..engine.batches import Batch, halves
from ..engine.columns import column, ranks
from ..engine.effort import of_channels
from ..engine.places import SITE_WORDS, check_sites, places, rows_at
from ..engine.step import Job, Sites, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.moments import Moments, merge_all, merge_rows, moments_of
from ..methods.taps import Gain

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    sites: Sites = ("mixer_out", "mixer.delta?")
    """sites of each block (with ?: where the model has it) with one value per token and channel"""


SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("channel", pa.int32(), "channel of the site"),
    column("attribution", pa.float64(), "mean over prompts of sum over tokens of activation times gradient; nats"),
    column("attribution_first", pa.float64(), "of the first half of the prompts alone; null where none is left"),
    column("attribution_second", pa.float64(), "of the second half"),
    column("standard_error", pa.float64(), "of that mean, over prompts; null for fewer than two"),
    column("rank", pa.int32(), "1 is the channel of largest |attribution| at this layer and site; ties by channel"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out here because their answer or gradient was not finite"),
    column("status", pa.string(), "ok, or model_nonfinite where no prompt was left"),
])  # fmt: skip

BATCH_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("site", pa.string()), ("first", pa.bool_()), ("n", pa.int32()),
     ("n_nonfinite", pa.int32()), ("mean", pa.list_(pa.float64())), ("m2", pa.list_(pa.float64()))]
)  # fmt: skip


VIEW = View(
    "What contributes to the right answer, to first order",
    "Gradient times activation of the answer's log-probability. It is the slope at the model as it is: a channel "
    "with a large constant value ranks high and may cost nothing to take away, which `bottlenecks` measures.",
    (
        MapPart(
            rows="layer",
            columns="channel",
            value="attribution",
            each=("site",),
            title="Attribution of {site}",
            explains="First-order contribution of the channel to the log-probability of the right answer.",
            label="nats",
            scale="signed",
            words=SITE_WORDS,
        ),
        TablePart(
            title="The channel of largest attribution",
            only={"rank": 1, "status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("channel"), Column("attribution", "attribution, nats"),
                Column("standard_error", "standard error"), Column("n_prompts", "prompts"),
            ),
            sort=("site", "layer"),
            top=24,
        ),
    ),
)  # fmt: skip


@step("attribution", version=2, settings=Settings, check=check_sites, view=VIEW, cost=of_channels(3.5, bytes=41))
def attribution(job: Job) -> Tables:
    """Gradient times activation of the answer's log-probability per channel."""
    asked = places(job.model, job.layers, job.settings.sites)
    first = sorted(halves(job.items)[0])
    arguments = {"layers": list(job.layers), "sites": list(job.settings.sites), "first": first}
    rows = job.map(batch_attribution, BATCH_SCHEMA, arguments).to_pylist()
    result: list[dict[str, Any]] = []
    for place in asked:
        parts = rows_at(rows, place.layer, place.site)
        both = [merge_rows((r for r in parts if r["first"] == half), place.channels) for half in (True, False)]
        total = merge_all(both, place.channels)
        common = {"layer": place.layer, "site": place.site, "n_prompts": total.n,
                  "n_nonfinite": sum(r["n_nonfinite"] for r in parts)}  # fmt: skip
        result += _channel_rows(common, total, both)
    return {"": pa.Table.from_pylist(result, schema=SCHEMA)}


def _channel_rows(common: dict[str, Any], total: Moments, both: list[Moments]) -> list[dict[str, Any]]:
    if total.n == 0:
        return [common | {"channel": c, "status": "model_nonfinite"} for c in range(len(total.mean))]
    error = np.sqrt(total.m2 / (total.n - 1) / total.n) if total.n > 1 else None
    rank = ranks(np.abs(total.mean))
    return [
        common
        | {
            "channel": c,
            "attribution": float(total.mean[c]),
            "attribution_first": float(both[0].mean[c]) if both[0].n else None,
            "attribution_second": float(both[1].mean[c]) if both[1].n else None,
            "standard_error": None if error is None else float(error[c]),
            "rank": int(rank[c]),
            "status": "ok",
        }
        for c in range(len(total.mean))
    ]


@torch.enable_grad()
def batch_attribution(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Moments over one batch's prompts of their attributions: a row for each layer, site and half."""
    asked = places(model, arguments["layers"], arguments["sites"])
    answered = batch.answered()
    size, options = len(batch.items), {"dtype": model.dtype, "device": model.device, "requires_grad": True}
    gains = [torch.ones(size, p.channels, **options) for p in asked]
    with model.edit(*[Gain(p.name, gain) for p, gain in zip(asked, gains, strict=True)]):
        logits = model(answered.tokens, answered.mask)
    scores = score_answers(logits, answered)
    # Rows of a batch do not meet, so the gradient of the sum is every row's own, one that is not finite stays alone.
    gradients = torch.autograd.grad(scores.logprob.sum(), gains)
    chosen = frozenset(arguments.get("first", ()))  # where nobody asks for halves all prompts are in the second
    first = torch.tensor([item.id in chosen for item in batch.items], device=scores.finite.device)
    rows = []
    for place, gradient in zip(asked, gradients, strict=True):
        finite = scores.finite & torch.isfinite(gradient).all(1)
        for half in sorted(set(first.tolist())):
            inside = first == half
            moments = moments_of(gradient[finite & inside].double().cpu().numpy())
            rows.append({
                "layer": place.layer, "site": place.site, "first": half, "n": moments.n,
                "n_nonfinite": int((~finite & inside).sum()), "mean": moments.mean, "m2": moments.m2,
            })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
