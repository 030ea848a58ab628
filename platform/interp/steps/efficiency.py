"""Efficiency: parameters, operations of a token, bytes kept of a text, and how many channels are active.

Everything is counted (`methods.operations`) or read from activations; nothing is timed, since a measured speed belongs
to a machine and changes from run to run: those stand in docs/benchmarks.md.

- `parts`: parameters, and operations of one token forwards, by part of the model.
- `contexts`: operations and state by length of the text so far; beside the state, keys and values of a transformer of
  the same width and as nearly as possible as many parameters.
- `active`: share of the values of a site that are active: larger than a share of the root mean square of the site in
  the same prompt. The source work counts neurons above a fixed number, which depends on the scale of a model's
  activations; `sparsity` has its thresholds. Silent channels are active at no token of any prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...scoring.statistics import bootstrap_columns
from ..engine.batches import Batch
from ..engine.columns import bounded, column, number
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, Place, check_sites, places, rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.operations import Part, context_operations, like_transformer, parts_of, state_bytes
from ..methods.question_halves import group_of
from ..methods.taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

SHARED = "blocks borrow parameters, whose uses are not counted"


class Settings(StepSettings):
    small = {"resamples": 100}

    sites: Sites = ("mixer.gated?", "mixer_out", "mlp_out?")
    """sites of each block (with ?: where the model has it) whose channels are counted as active"""
    above: float = Field(0.1, gt=0)
    """times the root mean square of a site in a prompt: above it a value is active"""
    contexts: tuple[int, ...] = (128, 512, 2048, 8192, 32768)
    """lengths of text, in tokens"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of the bootstrap over prompts"""
    confidence: float = Field(0.95, gt=0, lt=1)

    @field_validator("contexts")
    @classmethod
    def _lengths(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(n < 1 for n in values):
            raise ValueError("a context has at least one token")
        return named_once(values)


_STATUS = [
    column("status", pa.string(), "ok; model_nonfinite: no prompt was left; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value; null where there is one"),
]
PARTS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block; null outside of the blocks"),
    column("part", pa.string(), "embedding; mixer, feed_forward, rest (norms, and what stands beside them); head "
           "(with the final norm); all"),
    column("parameters", pa.int64(), "of the part; what stands in two parts is counted in the first, so a tied head "
           "has none"),
    column("active_parameters", pa.int64(), "that one token uses: without experts that are not chosen"),
    column("products", pa.int64(), "operations of a token in products with parameters"),
    column("scan", pa.int64(), "operations of a token in recurrences"),
    column("share", pa.float64(), "of these operations of the whole model"),
    *_STATUS,
])  # fmt: skip
CONTEXTS_SCHEMA = pa.schema([
    column("context", pa.int32(), "tokens of the text so far"),
    column("operations", pa.int64(), "of the next token, all parts and what is read of the context"),
    column("of_context", pa.int64(), "of these, what depends on the context: attention, long convolutions"),
    column("state_bytes", pa.int64(), "kept of the text, in the model's dtype"),
    column("transformer_layers", pa.int32(), "blocks of the transformer of like size"),
    column("transformer_bytes", pa.int64(), "its keys and values, in the same dtype"),
    column("ratio", pa.float64(), "transformer_bytes over state_bytes"),
    *_STATUS,
])  # fmt: skip
ACTIVE_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("channels", pa.int32(), "how many the site has"),
    *bounded("active", "share of the values that are active; mean over prompts"),
    column("silent_channels", pa.int32(), "channels that are active at no token of any prompt"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite"),
    *_STATUS,
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("active", pa.float64()),
    ("channels", pa.list_(pa.bool_())),
])  # fmt: skip

VIEW = View(
    "Efficiency: parameters, operations and state",
    "Counted from the model's parts and not timed. An operation is one multiplication, addition or the like; norms, "
    "gates and activation functions are left out.",
    (
        TablePart(
            part="parts", title="By part",
            columns=(
                Column("layer", absent=""), Column("part"), Column("parameters"),
                Column("active_parameters", "active"), Column("products", "operations, products", absent="–"),
                Column("scan", "recurrences", absent="–"), Column("share", "share", absent="–"),
            ),
        ),
        LinePart(part="contexts", x="context", y="state_bytes", only={"status": "ok"}, log_x=True, log_y=True,
                 title="Bytes kept of a text", x_label="tokens", label="bytes"),
        TablePart(
            part="contexts", title="By length of the text",
            columns=(
                Column("context", "tokens"), Column("operations", "operations of the next token", absent="–"),
                Column("of_context", "of these by the context", absent="–"), Column("state_bytes", "bytes kept"),
                Column("transformer_bytes", "keys and values of a transformer"), Column("ratio", absent="–"),
            ),
        ),
        LinePart(part="active", x="layer", y="active", low="active_low", high="active_high", group="site",
                 only={"status": "ok"}, title="Active values", label="share", words=SITE_WORDS),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """One pass, and every value at the sites looked at once."""
    channels = sum(place.channels for place in places(asked.model, asked.layers, asked.settings.sites))
    return Effort(1.3 * sum(lengths), of_files(4) + 100 * asked.model.n_layers, 4e-8 * channels * sum(lengths))


@step("efficiency", settings=Settings, seeded=True, check=check_sites, view=VIEW, cost=cost)
def efficiency(job: Job) -> Tables:
    """Parameters, operations of a token and bytes of state, counted, and the share of channels that are active."""
    parts = parts_of(job.model)
    return {
        "parts": pa.Table.from_pylist(_parts(parts), schema=PARTS_SCHEMA),
        "contexts": pa.Table.from_pylist(_contexts(job, parts), schema=CONTEXTS_SCHEMA),
        "active": pa.Table.from_pylist(_active(job), schema=ACTIVE_SCHEMA),
    }


def _parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    whole = _operations(parts)
    products = None if whole is None else sum(part.products or 0 for part in parts)
    scan = None if whole is None else sum(part.scan or 0 for part in parts)
    parameters, active = sum(part.parameters for part in parts), sum(part.active_parameters for part in parts)
    every = Part(None, "all", parameters, active, products, scan)
    rows: list[dict[str, Any]] = []
    for part in (*parts, every):
        row = part._asdict()
        row["part"] = row.pop("name")
        if part.products is None or part.scan is None or whole is None:
            rows.append(row | {"status": NOT_APPLICABLE, "reason": SHARED})
        else:
            rows.append(row | {"share": (part.products + part.scan) / whole, "status": "ok"})
    return rows


def _operations(parts: Sequence[Part]) -> int | None:
    """Of one token in all parts, without what depends on the context."""
    counted = [part.products + part.scan for part in parts if part.products is not None and part.scan is not None]
    return sum(counted) if len(counted) == len(parts) else None


def _contexts(job: Job, parts: Sequence[Part]) -> list[dict[str, Any]]:
    model, whole = job.model, _operations(parts)
    other = like_transformer(model)
    rows: list[dict[str, Any]] = []
    for context in job.settings.contexts:
        kept, cache = state_bytes(model, context), other.cache_bytes(context, model.dtype.itemsize)
        row: dict[str, Any] = {"context": context, "state_bytes": kept, "transformer_layers": other.layers,
                               "transformer_bytes": cache}  # fmt: skip
        if whole is None:
            rows.append(row | {"status": NOT_APPLICABLE, "reason": SHARED})
        else:
            more = context_operations(model, context)
            rows.append(row | {"operations": whole + more, "of_context": more, "ratio": cache / kept, "status": "ok"})
    return rows


def _active(job: Job) -> list[dict[str, Any]]:
    settings = job.settings
    arguments = {"layers": list(job.layers), "sites": list(settings.sites), "above": settings.above}
    found = job.map(batch_active, BATCH_SCHEMA, arguments).to_pylist()
    groups = {item.id: group_of(item) for item in job.items}
    rows: list[dict[str, Any]] = []
    for place in places(job.model, job.layers, settings.sites):
        every = rows_at(found, place.layer, place.site)
        here = [row for row in every if row["channels"] is not None]
        row: dict[str, Any] = {"layer": place.layer, "site": place.site, "channels": place.channels,
                               "n_prompts": len(here), "n_nonfinite": len(every) - len(here)}  # fmt: skip
        if not here:
            rows.append(row | {"status": "model_nonfinite", "reason": "no prompt was finite"})
            continue
        share = bootstrap_columns(
            [[row["active"]] for row in here], seed=job.seed, confidence=settings.confidence,
            n_resamples=settings.resamples, groups=[groups[row["id"]] for row in here],
        )  # fmt: skip
        low, high = (number(bound[0]) for bound in share[1:])
        ever = np.any([one["channels"] for one in here], axis=0)
        rows.append(row | {"active": float(share.value[0]), "active_low": low, "active_high": high, "status": "ok",
                           "silent_channels": int((~ever).sum())})  # fmt: skip
    return rows


@torch.no_grad()
def batch_active(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each prompt, layer and site; without values where one is not finite."""
    rows: list[dict[str, Any]] = []

    def watch(place: Place) -> Watch:
        def see(x: Tensor, lengths: Tensor) -> None:
            for item, values, n in zip(batch.items, x, lengths, strict=True):
                size = values[: int(n)].double().abs()
                row: dict[str, Any] = {"id": item.id, "layer": place.layer, "site": place.site}
                if bool(torch.isfinite(size).all()):
                    active = size > arguments["above"] * size.square().mean().sqrt()
                    row |= {"active": float(active.double().mean()), "channels": active.any(0).tolist()}
                rows.append(row)

        return Watch(place.name, see)

    tokens, mask = batch.prompts()
    with model.edit(*map(watch, places(model, arguments["layers"], arguments["sites"]))):
        model(tokens, mask, last_only=True)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
