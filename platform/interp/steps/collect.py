"""The activation store: what chosen sites hold at every token of the prompts, and what each of these tokens is.

Vectors are tensors in shards of at most `shard_tokens` tokens (a safetensors file each, one tensor for each site and
layer, a row for each token); the table `tokens` says which row is which token of which question, with labels. Whatever
learns from activations (dictionaries, probes) reads them through `methods.activation_store.Store`.

Beside it stands the store of a baseline: the same tokens in the model with its weights shuffled (`models.shuffled`).

Memory holds one batch and one shard, however many tokens there are. The model reads the prompt and its answer, but only
tokens of the prompt are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field

from ...models.shuffled import shuffled
from ..engine.answers import score_answers
from ..engine.batches import AnsweredBatch, Batch, Item
from ..engine.columns import column
from ..engine.places import SITE_WORDS, Place, places
from ..engine.step import Asked, Job, Sites, StepOutput, StepSettings, step
from ..engine.view import Column, TablePart, View
from ..methods.activation_store import MOMENTS, WEIGHTS, Weights, stored_name
from ..methods.moments import merge, moments_of
from ..methods.shards import DTYPES, ShardWriter, bytes_of, vectors_in

if TYPE_CHECKING:
    from torch import Tensor

    from ...models import LanguageModel


class Settings(StepSettings):
    sites: Sites = ("resid_post", "mixer_out")
    """sites of each block, with ? where the model has it; states (mixer.h) too: one row for each token, flattened"""
    positions: Literal["all", "last", "fact"] = "all"
    """tokens of the prompt that are stored: all, its last one, or those that state the answer"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    shard_tokens: int = Field(16_384, ge=1)
    """tokens in one file at most"""
    baseline: bool = True
    """also store what the model with shuffled weights holds, as much again: no analysis of features is to be read
    without it"""


def check(asked: Asked) -> None:
    """`Step.check`: the sites exist."""
    places(asked.model, asked.layers, asked.settings.sites, one_axis=False)


_LABELS = [
    column("question_id", pa.string(), "the question"),
    column("group", pa.string(), "what questions have in common (document, entity): one side of a split"),
    column("category", pa.string(), "of the question; null where it is not known"),
    column("hops", pa.int32(), "facts that the answer takes; null where it is not known"),
    column("position", pa.int32(), "token of the prompt, from 0"),
    column("token", pa.int32(), "its id"),
    column("next_token", pa.int32(), "id of the one after it; behind the prompt the answer's first"),
    column("in_fact", pa.bool_(), "whether it belongs to the statement of the answer"),
    column("since_fact", pa.int32(), "tokens from the end of that statement; null before it and where there is none"),
    column("from_end", pa.int32(), "tokens to the last one of the prompt, 0 for that"),
    column("answer_stated", pa.bool_(), "whether the prompt states the answer"),
    column("correct", pa.bool_(), "whether the model answers the question right; null where its scores are not finite"),
    column("nll", pa.float64(), "minus the log-probability of `next_token`, nats; null where it is not finite"),
    column("status", pa.string(), "ok; model_nonfinite: some value of a site, or of the baseline's, is not finite, and "
           "nothing is stored; or why the question was not used: too_long, bad_input"),
]  # fmt: skip
BATCH_SCHEMA = pa.schema(_LABELS)  # followed by a column of vectors for each place
TOKENS_SCHEMA = pa.schema([
    column("row", pa.int64(), "number of the token in the store, over all shards; null where it is not stored"),
    *_LABELS[:6],
    column("text", pa.string(), "the token as text; null without a tokenizer"),
    *_LABELS[6:],
])  # fmt: skip
PLACES_SCHEMA = pa.schema([
    column("weights", pa.string(), "trained: of the model; shuffled: of the baseline"),
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("tensor", pa.string(), "its name in every shard"),
    column("shape", pa.list_(pa.int32()), "of one token's value, flattened in a shard"),
    column("width", pa.int32(), "numbers of a token"),
    column("tokens", pa.int64(), "tokens that are stored"),
    column("mean", pa.float64(), "over tokens and coordinates"),
    column("std", pa.float64(), "standard deviation of the coordinates over tokens, root mean square"),
    column("min", pa.float64(), "smallest value"),
    column("max", pa.float64(), "largest value"),
    column("rms", pa.float64(), "root mean square of all values"),
    column("constant", pa.int32(), "coordinates that are the same at every token"),
    column("status", pa.string(), "ok; not_applicable: no token was stored"),
])  # fmt: skip

VIEW = View(
    "Activations that were stored",
    "What the analyses of features and probes read. A coordinate that is the same at every token tells nothing apart.",
    (
        TablePart(
            part="places",
            each=("weights",),
            title="Sites, over all stored tokens: {weights} weights",
            words=SITE_WORDS,
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("width"), Column("tokens"), Column("mean", form="signed"),
                Column("std"), Column("min", form="signed"), Column("max", form="signed"), Column("rms"),
                Column("constant", "constant coordinates"),
            ),
        ),
    ),
)  # fmt: skip


@step("collect", version=1, settings=Settings, seeded=True, check=check, view=VIEW)
def collect(job: Job) -> StepOutput:
    """Activations at every token of the prompts, stored for the analyses that learn from them."""
    settings = job.settings
    found = places(job.model, job.layers, settings.sites, one_axis=False)
    kinds = WEIGHTS if settings.baseline else WEIGHTS[:1]
    arguments = {"layers": list(job.layers), "sites": list(settings.sites), "positions": settings.positions,
                 "dtype": settings.dtype, "baseline_seed": job.seed if settings.baseline else None}  # fmt: skip
    kept = {stored_name(place.name, weights): (place, weights) for weights in kinds for place in found}
    widths = {name: prod(place.shape) for name, (place, _) in kept.items()}
    writer = ShardWriter(widths, settings.dtype, settings.shard_tokens, job.folder)
    summary = {name: _Summary(width) for name, width in widths.items()}
    labels = [pa.Table.from_pylist([{"question_id": e.id, "status": e.status} for e in job.excluded], BATCH_SCHEMA)]
    for table in job.batches(batch_activations, batch_schema(widths, settings.dtype), arguments):
        labels.append(table.select(BATCH_SCHEMA.names))
        stored = table.filter(pc.equal(table["status"], "ok")).combine_chunks()
        vectors = {name: vectors_in(stored[name], width, settings.dtype) for name, width in widths.items()}
        writer.add(vectors)
        for name, of_batch in vectors.items():
            summary[name].add(of_batch)
    shards = writer.finish()
    tokens = _tokens(pa.concat_tables([*labels[1:], labels[0]]), job.model)
    moments = {f"{name}/{key}": value for name, s in summary.items() for key, value in s.tensors().items()}
    rows = [{"weights": w, "tensor": name} | _about(p, summary[name]) for name, (p, w) in kept.items()]
    tables = {"tokens": tokens, "places": pa.Table.from_pylist(rows, schema=PLACES_SCHEMA)}
    return StepOutput(tables, {**shards, **({MOMENTS: moments} if moments else {})})


def batch_schema(widths: Mapping[str, int], dtype: str) -> pa.Schema:
    """Labels, and a column of vectors for each tensor of the store."""
    size = torch.finfo(DTYPES[dtype]).bits // 8
    return pa.schema([*BATCH_SCHEMA, *(pa.field(name, pa.binary(width * size)) for name, width in widths.items())])


@torch.no_grad()
def batch_activations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each token of the prompts, with its labels and its vectors."""
    found = places(model, arguments["layers"], arguments["sites"], one_axis=False)
    answered = batch.answered()
    logits, values = _read(model, answered, found, WEIGHTS[0])
    if arguments["baseline_seed"] is not None:
        values |= _read(shuffled(model, arguments["baseline_seed"]), answered, found, WEIGHTS[1])[1]
    scores = score_answers(logits, answered)
    rows: list[dict[str, Any]] = []
    kept: list[tuple[int, int]] = []
    for number, item in enumerate(batch.items):
        correct = bool(scores.correct[number]) if bool(scores.finite[number]) else None
        chosen = positions_of(item, arguments["positions"])
        nll = _nll(logits[number], item)
        for position in chosen:
            rows.append(_labels(item, position, nll[position]) | {"correct": correct})
            kept.append((number, position))
    at = torch.tensor(kept, dtype=torch.long).reshape(-1, 2)
    taken = {name: of_site[at[:, 0], at[:, 1]] for name, of_site in values.items()}
    finite = torch.ones(len(kept), dtype=torch.bool)
    for of_site in taken.values():
        finite &= torch.isfinite(of_site).all(1)
    for row, fine in zip(rows, finite.tolist(), strict=True):
        row["status"] = "ok" if fine else "model_nonfinite"
    schema = batch_schema({name: of_site.shape[1] for name, of_site in taken.items()}, arguments["dtype"])
    columns = [pa.array([row.get(name) for row in rows], BATCH_SCHEMA.field(name).type) for name in BATCH_SCHEMA.names]
    columns += [bytes_of(of_site, arguments["dtype"]) for of_site in taken.values()]
    return pa.table(columns, schema=schema)


def _read(
    model: LanguageModel, batch: AnsweredBatch, found: Sequence[Place], weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and values (B, T, width) by name in the store."""
    with model.capture(*[place.name for place in found]) as captured:
        logits = model(batch.tokens, batch.mask)
    return logits, {stored_name(p.name, weights): captured[p.name].flatten(2).float().cpu() for p in found}


def positions_of(item: Item, positions: str) -> Sequence[int]:
    """Tokens of an item's prompt that are stored."""
    if positions == "last":
        return [len(item.prompt) - 1]
    if positions == "fact":
        return range(*item.fact) if item.fact is not None else []
    return range(len(item.prompt))


def _labels(item: Item, position: int, nll: float) -> dict[str, Any]:
    fact, last = item.fact, len(item.prompt) - 1
    following = (*item.prompt, *item.answer)
    return {
        "question_id": item.id, "group": item.group, "category": item.category, "hops": item.hops,
        "position": position, "token": item.prompt[position],
        "next_token": following[position + 1] if position + 1 < len(following) else None,
        "in_fact": fact is not None and fact[0] <= position < fact[1],
        "since_fact": position - fact[1] + 1 if fact is not None and position >= fact[1] - 1 else None,
        "from_end": last - position, "answer_stated": fact is not None,
        "nll": nll if np.isfinite(nll) else None,
    }  # fmt: skip


def _nll(logits: Tensor, item: Item) -> list[float]:
    """Minus the log-probability of the token after each of the prompt, nats; NaN for none."""
    following = (*item.prompt, *item.answer)
    n = min(len(item.prompt), len(following) - 1)
    targets = torch.tensor(following[1 : n + 1], device=logits.device)
    lost = torch.nn.functional.cross_entropy(logits[:n].float(), targets, reduction="none").tolist()
    return [*lost, *[float("nan")] * (len(item.prompt) - n)]


class _Summary:
    """Moments and extremes of one place, batch by batch."""

    def __init__(self, width: int) -> None:
        self.moments = moments_of(np.zeros((0, width)))
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, values: Tensor) -> None:
        if not len(values):
            return
        x = values.double().numpy()
        self.moments = merge(self.moments, moments_of(x))
        self.low, self.high = np.minimum(self.low, x.min(0)), np.maximum(self.high, x.max(0))

    def tensors(self) -> dict[str, Tensor]:
        """mean and std (width,) over tokens, float64; none without tokens."""
        if not self.moments.n:
            return {}
        mean, std = self.moments.mean, np.sqrt(self.moments.variance)
        return {"mean": torch.from_numpy(mean), "std": torch.from_numpy(std)}


def _about(place: Place, summary: _Summary) -> dict[str, Any]:
    width, n = prod(place.shape), summary.moments.n
    about = {"layer": place.layer, "site": place.site, "shape": list(place.shape), "width": width, "tokens": n}
    if not n:
        return about | {"status": "not_applicable"}
    mean, variance = summary.moments.mean, summary.moments.variance
    return about | {
        "mean": float(mean.mean()), "std": float(np.sqrt(variance.mean())), "min": float(summary.low.min()),
        "max": float(summary.high.max()), "rms": float(np.sqrt((variance + mean**2).mean())),
        "constant": int((summary.low == summary.high).sum()), "status": "ok",
    }  # fmt: skip


def _tokens(labels: pa.Table, model: LanguageModel) -> pa.Table:
    """`TOKENS_SCHEMA`: labels with their rows in the store and the tokens' texts."""
    stored = np.array(labels["status"].to_pylist()) == "ok"
    rows = pa.array(np.cumsum(stored) - 1, pa.int64(), mask=~stored)
    ids = labels["token"].to_pylist()
    texts: dict[int | None, str | None] = {None: None}
    if model.tokenizer is not None:
        texts |= {token: model.tokenizer.decode([token]) for token in sorted({i for i in ids if i is not None})}
    text = pa.array([texts.get(token) for token in ids], pa.string())
    columns = {"row": rows, "text": text} | {name: labels[name] for name in labels.column_names}
    return pa.table([columns[name] for name in TOKENS_SCHEMA.names], schema=TOKENS_SCHEMA)


def stored_bytes(asked: Asked, tokens: int) -> int:
    """What the store of so many tokens takes on disk, bytes; the work towards it takes as much once more."""
    found = places(asked.model, asked.layers, asked.settings.sites, one_axis=False)
    size = torch.finfo(DTYPES[asked.settings.dtype]).bits // 8
    return tokens * sum(prod(place.shape) for place in found) * size * (2 if asked.settings.baseline else 1)
