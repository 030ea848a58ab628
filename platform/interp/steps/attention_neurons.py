"""Attention neurons: channels scored by what they read of other tokens, on the exact map of their mixer.

Mamba and Mamba-2 mix tokens by a matrix F for each channel (`methods.hidden_attention`): its output is F u plus a bias,
exactly. The source work takes attention weights of a transformer, or makes vectors up where there are none; here the
three modes (`methods.neuron_attention`) are taken on F itself: `attention_weighted`, what is read through the channel;
`gradient_guided`, times the gradient of the answer's log-probability; `rollout`, the channel's activation at each token
times how much of that token reaches the last one through the blocks above. Beside them the mean activation, and the
diversity of the tokens at which the channel is active.

Scores are means over prompts with bootstrap intervals; ranks are within a block and mode, by size. `agreement` says
whether two modes rank alike, with a p-value from shuffled channels, and how exactly F reproduces the activations. A
block without such a map has a row that says so; a rollout needs a map of every block above that mixes tokens at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from ...scoring.statistics import bootstrap_columns, correlations, holm
from ..engine.batches import Batch, spread
from ..engine.columns import bounded, column, number, ranks, tied_ranks
from ..engine.effort import of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.neuron_attention import MODES, Reader, mapped, neurons
from ..methods.question_halves import group_of

if TYPE_CHECKING:
    from ...models import LanguageModel

NO_MAP = "the block has no mixer of convolution, scan and gate alone"
NO_ROLLOUT = "a block above mixes tokens in a way that has no such map"


class Settings(StepSettings):
    small = {"resamples": 100, "draws": 100, "prompts": 2}

    reader: Reader = "each"
    """of attention_weighted: what the last token reads, or the mean over what each token does"""
    prompts: int = Field(4, ge=1)
    """questions at most, evenly spread; a map takes time with the square of a prompt's length"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of the bootstrap over prompts"""
    draws: int = Field(2000, ge=100, le=1_000_000)
    """random pairings of channels behind each p-value"""
    confidence: float = Field(0.95, gt=0, lt=1)


_STATUS = [
    column("status", pa.string(), "ok; model_nonfinite: no prompt was left; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value; null where there is one"),
]
NEURONS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("mode", pa.string(), ", ".join(MODES)),
    column("channel", pa.int32(), "channel of the mixer"),
    *bounded("score", "see the mode; of gradient_guided signed, in nats"),
    column("rank", pa.int32(), "1 is the channel of largest |score| of this block and mode; ties by channel"),
    *bounded("mean_activation", "mean |activation| over tokens"),
    *bounded("diversity", "entropy of the tokens at which it is active, 0 to 1"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a score was not finite"),
    *_STATUS,
])  # fmt: skip
AGREEMENT_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("mode", pa.string(), "one of the modes"),
    column("other", pa.string(), "another one"),
    column("correlation", pa.float64(), "Spearman's, of the sizes of both scores over channels"),
    column("p", pa.float64(), "two-sided p-value, from shuffled channels"),
    column("p_holm", pa.float64(), "corrected for all rows"),
    column("error", pa.float64(), "|F u + bias - activation| / |activation|, the largest of all prompts"),
    *_STATUS,
])  # fmt: skip
_LISTS = ("mean_activation", "diversity", *MODES)
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("error", pa.float64()),
    *((name, pa.list_(pa.float64())) for name in _LISTS),
])  # fmt: skip

VIEW = View(
    "Attention neurons: channels by what they read of other tokens",
    "On the exact map between tokens of each channel. What is read is no effect; gradient_guided is the slope of the "
    "answer's log-probability, in nats.",
    (
        MapPart(part="neurons", rows="layer", columns="channel", value="score", each=("mode",), only={"status": "ok"},
                title="{mode}", scale="signed"),
        TablePart(
            part="neurons", title="Channels of largest score", only={"status": "ok", "rank": (1, 2, 3)},
            sort=("mode", "layer", "rank"), top=36,
            columns=(
                Column("mode"), Column("layer"), Column("channel"), Column("score", "score", "score_low", "score_high"),
                Column("mean_activation", "mean activation"), Column("diversity", absent="–"),
                Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="agreement", title="Do the modes rank alike?", only={"status": "ok"},
            columns=(
                Column("layer"), Column("mode"), Column("other"), Column("correlation", form="signed", absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("error", "error of the map"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass forwards and backwards, and for each channel and coordinate of a scan every pair of tokens."""
    count = min(asked.settings.prompts, len(lengths))
    chosen = [lengths[i * len(lengths) // count] for i in range(count)]
    scans = [scan for layer in range(asked.model.n_layers) if (scan := mapped(asked.model, layer)) is not None]
    numbers = sum(scan.of.A.shape[0] * scan.of.A.shape[1] for scan in scans)
    channels = len(asked.layers) * asked.model.config.inner_size
    pairs = float(sum(length**2 for length in chosen))
    return Effort(4.0 * sum(chosen), of_files(2) + 130 * channels, 1.2e-8 * (numbers + 8 * channels) * pairs + 0.3)


@step("attention_neurons", settings=Settings, seeded=True, view=VIEW, cost=cost)
def attention_neurons(job: Job) -> Tables:
    """Channels by what they read through the exact hidden attention: weighted, gradient-guided and by rollout."""
    layers = [layer for layer in job.layers if mapped(job.model, layer) is not None]
    arguments = {"layers": layers, "asked": [item.id for item in spread(job.items, job.settings.prompts)],
                 "reader": job.settings.reader}  # fmt: skip
    found = job.map(batch_neurons, BATCH_SCHEMA, arguments).to_pylist() if layers else []
    rows: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []
    for layer in job.layers:
        if layer not in layers:
            nothing: dict[str, Any] = {"layer": layer, "status": NOT_APPLICABLE, "reason": NO_MAP}
            rows.append(nothing)
            agreement.append(dict(nothing))
            continue
        here = [row for row in found if row["layer"] == layer]
        scores: dict[str, np.ndarray] = {}
        for mode in MODES:
            rows += _of_mode(job, layer, mode, here, scores)
        agreement += _agreement(job, layer, scores, here)
    for row, corrected in zip(agreement, holm([row.get("p") for row in agreement]), strict=True):
        row["p_holm"] = corrected
    return {
        "neurons": pa.Table.from_pylist(rows, schema=NEURONS_SCHEMA),
        "agreement": pa.Table.from_pylist(agreement, schema=AGREEMENT_SCHEMA),
    }


def _of_mode(
    job: Job, layer: int, mode: str, here: Sequence[Mapping[str, Any]], scores: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The rows of one block and mode; their scores are put into `scores`."""
    good = [row for row in here if row["error"] is not None]
    about: dict[str, Any] = {"layer": layer, "mode": mode, "n_prompts": len(good), "n_nonfinite": len(here) - len(good)}
    if not good:
        return [about | {"status": "model_nonfinite", "reason": "no prompt with finite scores was left"}]
    if any(row[mode] is None for row in good):
        return [about | {"status": NOT_APPLICABLE, "reason": NO_ROLLOUT}]
    bounds = {"score": _means(job, good, mode)} | {name: _means(job, good, name) for name in _LISTS[:2]}
    scores[mode] = np.abs(bounds["score"][0])
    rank = ranks(scores[mode])
    rows: list[dict[str, Any]] = []
    for c in range(len(rank)):
        row = about | {"channel": c, "rank": int(rank[c]), "status": "ok"}
        for name, (value, low, high) in bounds.items():
            row |= {name: number(value[c]), f"{name}_low": number(low[c]), f"{name}_high": number(high[c])}
        rows.append(row)
    return rows


def _means(job: Job, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (E,) over the prompts that have a value, and their bounds."""
    values = np.array([row[name] for row in rows], np.float64)
    groups = {item.id: group_of(item) for item in job.items}
    known = np.isfinite(values)
    return bootstrap_columns(
        np.where(known, values, 0.0), known.astype(np.float64), seed=job.seed, confidence=job.settings.confidence,
        n_resamples=job.settings.resamples, groups=[groups[row["id"]] for row in rows],
    )  # fmt: skip


def _agreement(
    job: Job, layer: int, scores: Mapping[str, np.ndarray], here: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    errors = [row["error"] for row in here if row["error"] is not None]
    rows: list[dict[str, Any]] = []
    for mode, other in combinations(MODES, 2):
        row: dict[str, Any] = {"layer": layer, "mode": mode, "other": other}
        if not errors:
            rows.append(row | {"status": "model_nonfinite", "reason": "no prompt with finite scores was left"})
        elif mode not in scores or other not in scores:
            rows.append(row | {"status": NOT_APPLICABLE, "reason": NO_ROLLOUT})
        else:
            (link,) = correlations(
                [tied_ranks(scores[mode])], tied_ranks(scores[other]), seed=job.seed, n_draws=job.settings.draws
            )
            rows.append(row | {"correlation": link.r, "p": link.p, "error": max(errors), "status": "ok"})
    return rows


def batch_neurons(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each asked prompt and block; without values where a score is not finite."""
    asked = frozenset(arguments["asked"])
    rows: list[dict[str, Any]] = []
    for item in batch.items:
        if item.id not in asked:
            continue
        prompt = torch.tensor(item.prompt, device=batch.device)
        for layer, found in neurons(model, prompt, item.answer[0], arguments["layers"], arguments["reader"]).items():
            row: dict[str, Any] = {"id": item.id, "layer": layer}
            values = {name: getattr(found, name) for name in _LISTS}
            wanted = [found.mean_activation, *(values[mode] for mode in MODES if values[mode] is not None)]
            if all(bool(torch.isfinite(value).all()) for value in wanted):
                row |= {name: None if value is None else value.tolist() for name, value in values.items()}
                row["error"] = found.error
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
