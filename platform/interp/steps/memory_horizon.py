"""How far back a model uses what it has read, seen in four ways, beside what its convolutions alone could do.

In tokens before the prompt's last one, at the last one:

- `decay`: max k with S(k) >= theta of a state coordinate, as in `memory_decay`; means over the coordinates of a block.
- `attention`: sum_j |alpha_ij| (i - j) / sum_j |alpha_ij| of the scan written as attention, mean over channels (heads).
  A mean distance and no horizon: a uniform reader of T tokens has (T - 1) / 2.
- `gradient`: the largest k with |dM/dx_{t-k}| >= theta of its maximum over k, with M the log-probability of the
  answer's first token and x what enters a block; so that of a block is of it and those above.
- `behaviour`: the fewest tokens k such that, with the older ones replaced by tokens of other prompts, the next-token
  distribution loses less than theta of what it loses when all but the last token are replaced or of the largest such
  loss (KL in nats, mean of several draws). Small changes enter a KL as squares: theta = 0.1 is a third of a change.

The first two say what the recurrence could use or weighs, the third what the answer hangs on to first order, the fourth
what it hangs on. The last two are measured again with every recurrence cut (`methods.recurrence_cut`): L convolutions
of k taps reach (k - 1) L tokens back without any state, so that no horizon up to there is memory. A horizon that meets
the prompt's beginning is censored: a lower bound, counted as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from ..engine.batches import spread
from ..engine.effort import mean_length, of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, LinePart, TablePart, View
from ..methods.forgetting import BATCH_SCHEMA, batch_forgetting
from ..methods.half_lives import SCHEMA as HALF_LIVES_SCHEMA
from ..methods.half_lives import half_lives
from ..methods.horizon_runs import (
    ATTENTION,
    BEHAVIOUR,
    DECAY,
    GRADIENT,
    OFF,
    ON,
    PROMPT_SCHEMA,
    VIEWS,
    batch_attention,
    batch_gradients,
    batch_replaced,
)  # fmt: skip
from ..methods.horizon_tables import (
    CONTROL_SCHEMA,
    CURVES_SCHEMA,
    SUMMARY_SCHEMA,
    TREND_SCHEMA,
    How,
    control,
    curves,
    series_of,
    summary,
    trend,
)  # fmt: skip
from ..methods.horizons import tried_distances
from ..methods.recurrence_cut import conv_reach, cut_recurrences, reach_above
from ..methods.recurrences import LayerRecurrence, recurrences_of, scans_of
from ..methods.replaced_context import special_tokens, token_counts

NO_RECURRENCE = "the block has no recurrence"
NO_SCAN = "the block has no selective scan of its own states"
NO_CUT = "the model has no recurrence that could be cut"


class Settings(StepSettings):
    small = {"resamples": 100, "replaced": 4, "draws": 2}

    theta: float = Field(0.1, gt=0, lt=1)
    """share of the maximum that must be left, for all horizons"""
    replaced: int = Field(18, ge=1)
    """prompts, equally spread, whose older tokens are replaced"""
    draws: int = Field(3, ge=1)
    """rows of tokens to replace them by"""
    dense: int = Field(4, ge=1)
    """up to how many kept tokens each number of them is tried; beyond, each is half as many again"""
    bins: int = Field(4, ge=1)
    """of the prompts' lengths, of about as many prompts each"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of bootstrap, permutations and sign flips"""
    confidence: float = Field(0.95, gt=0, lt=1)


_WORDS = {
    DECAY: "decay of the state", ATTENTION: "distance of hidden attention", GRADIENT: "gradient of the answer",
    BEHAVIOUR: "behaviour", ON: "the model", OFF: "its convolutions alone", None: "whole model",
}  # fmt: skip
VIEW = View(
    "How far back the model uses what it has read",
    "In tokens before the last one. Horizons that meet the prompt's beginning are lower bounds; how many do is in the "
    "tables. What the convolutions alone reach is no memory: it stands beside.",
    (
        LinePart(part="summary", x="layer", y="horizon", low="low", high="high", group="view",
                 only={"by": "all", "recurrence": ON, "view": (DECAY, ATTENTION, GRADIENT)}, title="By depth",
                 explains="Means over prompts. A gradient's horizon is that of the block and all above it.",
                 label="tokens", words=_WORDS),
        LinePart(part="curves", x="distance", y="left", low="low", high="high", group="recurrence",
                 only={"view": BEHAVIOUR}, title="What is lost when older tokens are replaced",
                 explains="KL of the next-token distribution, mean over prompts that are long enough.",
                 x_label="tokens kept before the last one", label="nats", words=_WORDS),
        LinePart(part="summary", x="length_to", y="horizon", low="low", high="high", group="recurrence",
                 only={"by": "length", "view": BEHAVIOUR}, title="Behavioural horizon by length of the prompt",
                 x_label="tokens of the prompt, at most", label="tokens", words=_WORDS),
        BarPart(part="summary", x="category", y="horizon", low="low", high="high", group="recurrence",
                only={"by": "category", "view": BEHAVIOUR}, title="Behavioural horizon by category of question",
                label="tokens", words=_WORDS),
        TablePart(part="control", title="Beside the convolutions alone",
                  columns=(Column("view"), Column("layer", "from block"), Column("bound", "convolutions reach"),
                           Column("convolutions", "measured"), Column("longest", "at most"), Column("model"),
                           Column("difference", low="low", high="high", form="signed"),
                           Column("p_holm", "p", form="p"), Column("past_bound", "share past the bound"),
                           Column("n_prompts", "prompts"), Column("reason", "why not", absent="")),
                  words=_WORDS),
        TablePart(part="trend", title="Does the horizon grow with the prompt?", only={"status": "ok"}, folded=True,
                  columns=(Column("view"), Column("recurrence"), Column("layer"), Column("r", "correlation"),
                           Column("r_within", "within kinds of question"), Column("p_holm", "p", form="p"),
                           Column("censored", "share censored"), Column("n_prompts", "prompts")),
                  words=_WORDS),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Three passes forwards and two backwards over all prompts, and a run for each replaced prompt, draw and number of
    kept tokens; each twice where there is a control."""
    settings, length = asked.settings, mean_length(lengths)
    sides = 1 if cut_recurrences(asked.model) is None else 2
    runs = settings.draws * len(tried_distances(max(1, int(length)), dense=settings.dense))
    replaced = sides * min(settings.replaced, len(lengths)) * runs * length
    coordinates = sum(place.A.numel() for layer in asked.layers for place in recurrences_of(asked.model, layer))
    written = of_files(6) + 14 * coordinates + (60 * len(asked.layers) + 80) * len(lengths)
    return Effort((3 + 3.5 * sides) * sum(lengths) + replaced, written, 1.5 + 2e-5 * coordinates)


@step("memory_horizon", version=1, settings=Settings, seeded=True, view=VIEW, cost=cost)
def memory_horizon(job: Job) -> Tables:
    """How far back the model uses what it has read, in four views, beside what its convolutions alone reach."""
    settings, how = job.settings, How(job.seed, job.settings.confidence, job.settings.resamples)
    decays = [place for layer in job.layers for place in recurrences_of(job.model, layer)]
    common = {"layers": list(job.layers), "theta": settings.theta}
    passed = job.map(batch_forgetting, BATCH_SCHEMA, common).to_pylist()
    rows = [_decay_row(row) for row in passed if row["question_id"] is not None and row["layer"] is not None]
    if any(scans_of(job.model, layer) for layer in job.layers):
        rows += job.map(batch_attention, PROMPT_SCHEMA, common).to_pylist()
    rows += job.map(batch_gradients, PROMPT_SCHEMA, common).to_pylist()
    rows += job.map(batch_replaced, PROMPT_SCHEMA, common | _replacing(job)).to_pylist()
    order = {item.id: number for number, item in enumerate(job.items)}
    rows.sort(key=lambda row: (VIEWS.index(row["view"]), row["recurrence"] == OFF, -1 if row["layer"] is None else
                               row["layer"], row["site"] or "", order[row["question_id"]]))  # fmt: skip
    series, reach = series_of(rows), conv_reach(job.model)
    bounds: dict[int | None, int] = {None: sum(reach)} | {layer: reach_above(reach, layer) for layer in job.layers}
    longest = max((len(item.prompt) for item in job.items), default=0)
    without = _without(job, decays)
    tables = {
        "summary": (summary(series, job.items, settings.bins, how) + without, SUMMARY_SCHEMA),
        "control": (control(series, job.items, bounds, how) or [_uncut(job)], CONTROL_SCHEMA),
        "curves": (curves(series, job.items, how), CURVES_SCHEMA),
        "trend": (trend(series, job.items, how), TREND_SCHEMA),
        "prompts": (rows, PROMPT_SCHEMA),
        "coordinates": (_coordinates(job, decays, passed, longest), HALF_LIVES_SCHEMA),
    }
    return {name: pa.Table.from_pylist(found, schema=schema) for name, (found, schema) in tables.items()}


def _decay_row(row: dict[str, Any]) -> dict[str, Any]:
    place = {name: row[name] for name in ("question_id", "layer", "site", "horizon", "censored", "status")}
    reason = None if row["status"] == "ok" else "a decay is not finite"
    return place | {"view": DECAY, "recurrence": ON, "at_least": row["horizon"], "reason": reason}


def _replacing(job: Job) -> dict[str, Any]:
    counts = token_counts((item.prompt for item in job.items), special_tokens(job.model))
    tokens = sorted(counts)
    return {
        "ids": [item.id for item in spread(job.items, job.settings.replaced)], "tokens": tokens,
        "counts": [counts[token] for token in tokens], "draws": job.settings.draws, "seed": job.seed,
        "dense": job.settings.dense,
    }  # fmt: skip


def _without(job: Job, decays: Sequence[LayerRecurrence]) -> list[dict[str, Any]]:
    """A row for each block of which a view says nothing."""
    having = {DECAY: {place.layer for place in decays}}
    having[ATTENTION] = {layer for layer in job.layers if scans_of(job.model, layer)}
    why = {DECAY: NO_RECURRENCE, ATTENTION: NO_SCAN}
    return [
        {"view": view, "recurrence": ON, "layer": layer, "by": "all", "n_prompts": 0, "status": NOT_APPLICABLE,
         "reason": why[view]}
        for view in why for layer in job.layers if layer not in having[view]
    ]  # fmt: skip


def _uncut(job: Job) -> dict[str, Any]:
    if cut_recurrences(job.model) is None:
        return {"view": BEHAVIOUR, "n_prompts": 0, "status": NOT_APPLICABLE, "reason": NO_CUT}
    return {"view": BEHAVIOUR, "n_prompts": 0, "status": "model_nonfinite", "reason": "no prompt has both"}


def _coordinates(
    job: Job, decays: Sequence[LayerRecurrence], passed: Sequence[dict[str, Any]], longest: int
) -> list[dict[str, Any]]:
    rows = [row for decay in decays for row in half_lives(decay, passed, longest)]
    absent = [layer for layer in job.layers if layer not in {decay.layer for decay in decays}]
    return rows + [{"layer": layer, "status": NOT_APPLICABLE} for layer in absent]
