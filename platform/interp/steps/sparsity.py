"""How sparse activations are at several sites of all blocks: few large channels among many small ones, or all alike.

Everything is taken prompt by prompt and averaged over prompts, with bootstrap intervals over them:

- `measures`: Gini, Hoyer, entropy and Treves-Rolls (`methods.sparsity_measures`) of the channels at each token, mean
  over tokens. Sparsity belongs to a basis: beside each stands the same of the activations turned by a random rotation
  of the channels, which changes nothing else. Only what differs from that is a matter of the channels.
- `percentiles`: magnitudes below which 5 to 95 % of all values of a prompt lie, and the share of the summed magnitudes
  that these hold. That p % of values lie below the p-th percentile is so for any values and says nothing; how little
  they hold is what sparsity means. The same of the channels' variances over all tokens.
- `thresholds`: what zeroing all values up to a threshold would take away. The optimal threshold for a target is the
  least one that silences that share of the values; beside it two fixed ones, conventions of the source work: 0.01 for
  state-space models and 1e-5 for transformers. A fixed one depends on the scale of a model's activations.

A token whose values are all zero has no measure and is counted, as is a prompt with a value that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...runtime.plan import digest_of
from ...scoring.statistics import bootstrap_columns
from ..engine.batches import Batch
from ..engine.columns import bounded, column, number
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, Place, check_sites, places, rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.moments import merge_rows, moments_of
from ..methods.question_halves import group_of
from ..methods.sparsity_measures import MEASURES, Magnitudes, measures
from ..methods.taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
#: thresholds of the source work, kept as its conventions, by name
FIXED = {"ssm": 0.01, "transformer": 1e-5}


class Settings(StepSettings):
    small = {"resamples": 100}

    sites: Sites = ("mixer.gated?", "mixer_out", "resid_post")
    """sites of each block (with ?: where the model has it) with one value per token and channel"""
    targets: tuple[float, ...] = (0.5, 0.8, 0.95)
    """shares of values to silence, each of which gets its optimal threshold"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """of the bootstrap over prompts"""
    confidence: float = Field(0.95, gt=0, lt=1)

    @field_validator("targets")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share < 1 for share in values):
            raise ValueError("a target lies between 0 and 1")
        return named_once(values)


_PLACE = [column("layer", pa.int32(), "block"), column("site", pa.string(), "site, relative to the block")]
_COUNTS = [
    column("n_prompts", pa.int32(), "prompts counted"),
    column("status", pa.string(), "ok; model_nonfinite: no prompt was left; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value; null where there is one"),
]


MEASURES_SCHEMA = pa.schema([
    *_PLACE,
    column("measure", pa.string(), ", ".join(MEASURES)),
    *bounded("value", "of the channels at a token, mean over the tokens of a prompt"),
    column("rotated", pa.float64(), "the same after a random rotation of the channels, mean over prompts"),
    *bounded("difference", "value less rotated"),
    column("n_tokens", pa.int64(), "tokens counted"),
    column("n_zero_tokens", pa.int64(), "tokens left out because all their values are zero"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite"),
    *_COUNTS,
])  # fmt: skip
PERCENTILES_SCHEMA = pa.schema([
    *_PLACE,
    column("of", pa.string(), "magnitude: of the values of a prompt; variance: of the channels over all tokens of all "
           "prompts, without interval"),
    column("percentile", pa.int32(), "percentage of values up to here"),
    *bounded("value", "the percentile"),
    *bounded("held", "share of the sum that the values up to here hold"),
    *_COUNTS,
])  # fmt: skip
THRESHOLDS_SCHEMA = pa.schema([
    *_PLACE,
    column("rule", pa.string(), "target: the optimal threshold for a share of silent values; ssm, transformer: fixed"),
    column("target", pa.float64(), "that share; null for fixed thresholds"),
    *bounded("threshold", "magnitude up to which values are silenced"),
    *bounded("silent", "share of the values that are"),
    *bounded("lost", "share of the sum of squares that goes with them"),
    *_COUNTS,
])  # fmt: skip

BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("finite", pa.bool_()),
    ("n_tokens", pa.int64()), ("n_zero", pa.int64()),
    *((name, pa.list_(pa.float64())) for name in
      ("measures", "rotated", "percentiles", "held", "thresholds", "silent", "lost", "mean", "m2")), ("n", pa.int64()),
])  # fmt: skip

VIEW = View(
    "How sparse activations are",
    "Of the channels at each token, averaged over prompts. Sparsity belongs to a basis: what a random rotation of the "
    "channels leaves as it was is no property of the channels.",
    (
        *(
            LinePart(part="measures", x="layer", y="value", low="value_low", high="value_high", group="site",
                     only={"measure": measure, "status": "ok"}, title=title, label=measure, words=SITE_WORDS)
            for measure, title in (("gini", "Gini coefficient"), ("hoyer", "Hoyer sparsity"))
        ),
        LinePart(part="percentiles", x="percentile", y="held", low="held_low", high="held_high", group="layer",
                 only={"of": "magnitude", "status": "ok"}, each=("site",), title="Held by the smallest values: {site}",
                 x_label="percentage of values", label="share of the sum", words=SITE_WORDS),
        TablePart(
            part="measures", title="Against a random rotation", only={"status": "ok"}, folded=True,
            columns=(
                Column("layer"), Column("site"), Column("measure"), Column("value", "value", "value_low", "value_high"),
                Column("rotated"), Column("difference", "difference", "difference_low", "difference_high",
                                          form="signed"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="thresholds", title="What silencing small values takes away", only={"status": "ok"}, folded=True,
            columns=(
                Column("layer"), Column("site"), Column("rule"), Column("target", absent=""), Column("threshold"),
                Column("silent", "silent", "silent_low", "silent_high"),
                Column("lost", "squares lost", "lost_low", "lost_high"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """One pass; every value at the sites is put in order a few times, in its own basis and in another one."""
    channels = sum(place.channels for place in places(asked.model, asked.layers, asked.settings.sites))
    count = len(places(asked.model, asked.layers, asked.settings.sites))
    return Effort(1.2 * sum(lengths), of_files(3) + 700 * count, 6e-7 * channels * sum(lengths))


@step("sparsity", settings=Settings, seeded=True, check=check_sites, view=VIEW, cost=cost)
def sparsity(job: Job) -> Tables:
    """Gini, Hoyer, entropy and Treves-Rolls sparsity, percentiles and thresholds of activations at several sites."""
    settings = job.settings
    arguments = {"layers": list(job.layers), "sites": list(settings.sites), "targets": list(settings.targets),
                 "seed": job.seed}  # fmt: skip
    rows = job.map(batch_sparsity, BATCH_SCHEMA, arguments).to_pylist()
    tables: dict[str, list[dict[str, Any]]] = {"measures": [], "percentiles": [], "thresholds": []}
    groups = {item.id: group_of(item) for item in job.items}
    for place in places(job.model, job.layers, settings.sites):
        here = _Here(place, rows_at(rows, place.layer, place.site), groups, job)
        tables["measures"] += here.measures()
        tables["percentiles"] += here.percentiles()
        tables["thresholds"] += here.thresholds()
    schemas = {"measures": MEASURES_SCHEMA, "percentiles": PERCENTILES_SCHEMA, "thresholds": THRESHOLDS_SCHEMA}
    return {name: pa.Table.from_pylist(found, schema=schemas[name]) for name, found in tables.items()}


class _Here:
    """What the prompts say of one site of one block."""

    def __init__(self, place: Place, rows: list[dict[str, Any]], groups: Mapping[str, str], job: Job) -> None:
        self._about: dict[str, Any] = {"layer": place.layer, "site": place.site}
        self._job, self._channels = job, place.channels
        self._rows = [row for row in rows if row["finite"]]
        self._nonfinite = len(rows) - len(self._rows)
        self._groups = [groups[row["id"]] for row in self._rows]

    def measures(self) -> list[dict[str, Any]]:
        counts = {"n_tokens": sum(row["n_tokens"] for row in self._rows), "n_nonfinite": self._nonfinite,
                  "n_zero_tokens": sum(row["n_zero"] for row in self._rows)}  # fmt: skip
        value, rotated = (self._values(name, len(MEASURES)) for name in ("measures", "rotated"))
        return [
            {"measure": measure} | counts
            | self._estimates({"value": value[:, i], "rotated": rotated[:, i], "difference": (value - rotated)[:, i]})
            for i, measure in enumerate(MEASURES)
        ]  # fmt: skip

    def percentiles(self) -> list[dict[str, Any]]:
        value, held = (self._values(name, len(PERCENTILES)) for name in ("percentiles", "held"))
        of_values = [
            {"of": "magnitude", "percentile": percentile}
            | self._estimates({"value": value[:, i], "held": held[:, i]})
            for i, percentile in enumerate(PERCENTILES)
        ]  # fmt: skip
        total = merge_rows(self._rows, self._channels)
        of_variance: list[dict[str, Any]] = [{"of": "variance", "percentile": p} for p in PERCENTILES]
        if total.n == 0 or not total.variance.any():
            return of_values + [row | self._without("all values are the same") for row in of_variance]
        variances = Magnitudes(torch.from_numpy(total.variance))
        limits = variances.thresholds([p / 100 for p in PERCENTILES])
        for row, limit, (_, share, _) in zip(of_variance, limits, variances.up_to(limits), strict=True):
            row |= self._about | {"value": float(limit), "held": float(share), "n_prompts": len(self._rows),
                                  "status": "ok"}  # fmt: skip
        return of_values + of_variance

    def thresholds(self) -> list[dict[str, Any]]:
        targets = self._job.settings.targets
        rules = [("target", target) for target in targets] + [(name, None) for name in FIXED]
        threshold, silent, lost = (self._values(name, len(rules)) for name in ("thresholds", "silent", "lost"))
        return [
            {"rule": rule, "target": target}
            | self._estimates({"threshold": threshold[:, i], "silent": silent[:, i], "lost": lost[:, i]})
            for i, (rule, target) in enumerate(rules)
        ]  # fmt: skip

    def _values(self, name: str, width: int) -> np.ndarray:
        """(prompts, width), NaN where a prompt has none."""
        return np.array([row[name] for row in self._rows], np.float64).reshape(len(self._rows), width)

    def _estimates(self, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Means (prompts,) with intervals, of the prompts that have them all."""
        table = np.stack(list(values.values()), 1)
        known = np.isfinite(table.sum(1))
        if not known.any():
            return self._without("a single channel" if self._channels == 1 else "all values are zero")
        settings, groups = self._job.settings, [g for g, good in zip(self._groups, known, strict=True) if good]
        found = bootstrap_columns(
            table[known], seed=self._job.seed, confidence=settings.confidence, n_resamples=settings.resamples,
            groups=groups,
        )  # fmt: skip
        row = self._about | {"n_prompts": int(known.sum()), "status": "ok"}
        for name, *bounds in zip(values, *found, strict=True):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(number, bounds), strict=True))
        return row

    def _without(self, why: str) -> dict[str, Any]:
        if not self._rows:
            return self._about | {"n_prompts": 0, "status": "model_nonfinite", "reason": "no prompt was finite"}
        return self._about | {"n_prompts": 0, "status": NOT_APPLICABLE, "reason": why}


@torch.no_grad()
def batch_sparsity(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each prompt, layer and site."""
    asked = places(model, arguments["layers"], arguments["sites"])
    turns = {width: rotation(width, arguments["seed"]) for width in {place.channels for place in asked}}
    rows: list[dict[str, Any]] = []

    def watch(place: Place) -> Watch:
        def see(x: Tensor, lengths: Tensor) -> None:
            for item, values, n in zip(batch.items, x, lengths, strict=True):
                about = {"id": item.id, "layer": place.layer, "site": place.site}
                real = values[: int(n)].double().cpu()
                rows.append(about | _of_prompt(real, turns[place.channels], arguments["targets"]))

        return Watch(place.name, see)

    tokens, mask = batch.prompts()
    with model.edit(*map(watch, asked)):
        model(tokens, mask, last_only=True)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _of_prompt(x: Tensor, turn: Tensor, targets: Sequence[float]) -> dict[str, Any]:
    """What one prompt's values x (T, C) say."""
    if not bool(torch.isfinite(x).all()):
        return {"finite": False}
    some = x[(x != 0).any(1)]
    row: dict[str, Any] = {"finite": True, "n_tokens": len(some), "n_zero": len(x) - len(some)}
    for name, values in (("measures", some), ("rotated", some @ turn)):
        row[name] = measures(values).mean(0).tolist() if len(some) else [float("nan")] * len(MEASURES)
    sizes = Magnitudes(x)
    percentiles = sizes.thresholds([p / 100 for p in PERCENTILES])
    limits = torch.cat([sizes.thresholds(targets), torch.tensor(list(FIXED.values()), dtype=torch.float64)])
    silent, _, lost = sizes.up_to(limits).T
    moments = moments_of(x.numpy())
    return row | {
        "percentiles": percentiles.tolist(), "held": sizes.up_to(percentiles)[:, 1].tolist(),
        "thresholds": limits.tolist(), "silent": silent.tolist(), "lost": lost.tolist(),
        "n": moments.n, "mean": moments.mean, "m2": moments.m2,
    }  # fmt: skip


def rotation(width: int, seed: int) -> Tensor:
    """An orthogonal matrix (C, C) drawn evenly from all: Q of a Gaussian matrix, with the signs of R's diagonal."""
    generator = torch.Generator().manual_seed(int(digest_of([seed, "rotation", width])[:15], 16))
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()
