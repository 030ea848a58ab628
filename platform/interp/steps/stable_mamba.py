"""Whether Stable-Mamba's parts do what they are for: gates, compression, timescales, sparse attention, block by block.

- `gates`: weight, what each lets through, and its share of what the ensemble lets through. `gate_pairs`: how far two
  gates open together: correlation over tokens, channel by channel, and mutual information beside what chance gives.
- `timescales`: the decays that the heads really have, each timescale's share of the read-out, and how few directions
  hold the variance of its state. A share counts the skip D x, which remembers nothing; `memory_share` does not.
- `factors`: compression and gain over the tokens of a prompt. `attention`: what sparse attention adds to the read-out,
  and its memory gate.
- `ablations`: what the answer loses without a gate (its weight goes to the others), a timescale, attention, or with a
  factor held at its mean over the prompt. Gates whose loss changes nothing are redundant, whatever they correlate.
- `parameters`: value times derivative of the answer's log-probability, parameter by parameter, to first order.

Every number is of a prompt and then averaged over prompts, with bootstrap intervals; shares are defined in
`methods.mixture_readings`. What of this a block has, its mixer says (`Mixer.gated_timescales`): Stable-Mamba, alone or
attached to a Mamba. All other blocks have rows `not_applicable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from ...scoring.statistics import holm
from ..engine.batches import spread
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, TablePart, View
from ..methods.mixture_readings import BINS, HELD
from ..methods.mixture_runs import (
    Mixture,
    ablated,
    all_mixtures,
    batch_ablations,
    batch_parameters,
    batch_readings,
    mixtures_of,
)
from ..methods.prompt_measures import BATCH_SCHEMA, Found, Measure, schema

NO_MIXTURE = "the block's mixer has no ensemble of gates and no timescales"
NO_ATTENTION = "the block has no sparse attention"
ONE_GATE = "the block has one gate, which has no other to be compared with"


class Settings(StepSettings):
    small = {"resamples": 100, "states": 3, "every": 4}

    prompts: int = Field(24, ge=2, le=100_000)
    """that are looked at, at equal steps"""
    states: int = Field(8, ge=2, le=64)
    """states of a prompt whose variance is looked at: after its last token, and going back from there"""
    every: int = Field(8, ge=1, le=1000)
    """tokens from one of these states to the next"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """of the bootstrap and of sign flips"""
    confidence: float = Field(0.95, gt=0, lt=1)


_SHARE = "its share of their sum, <part, sum> / <sum, sum> over tokens and channels; those of a block add up to 1"
GATES = (
    Measure("weight", "weight", "its weight in the ensemble, the same at every token", False),
    Measure("opening", "opening", "what it lets through of its input, 0 to 1, mean over tokens and channels"),
    Measure("share", "share", _SHARE),
)
PAIRS = (
    Measure("correlation", "correlation", "of the two gates' openings over tokens, mean over channels; null where one "
            "stands still"),
    Measure("mutual_information", "mutual_information", f"of the openings, nats: {BINS} classes each, channels pooled "
            "after each is standardised"),
    Measure("by_chance", "by_chance", "the same with one gate's tokens moved on by half the prompt", False),
)  # fmt: skip
TIMESCALES = (
    Measure("decay", "decay_mean", "what a token leaves of the state, mean over tokens and heads"),
    Measure("decay_fastest", "decay_fastest", "of the head that forgets most", False),
    Measure("decay_slowest", "decay_slowest", "of the head that forgets least", False),
    Measure("decay_varies", "decay_varies", "standard deviation over the tokens of a prompt, mean over heads", False),
    Measure("weight", "weight", "its weight in the read-out, the same at every token", False),
    Measure("share", "share", _SHARE),
    Measure("memory_share", "memory_share", "its share without the skip D x: of what the state remembers, this token "
            "included"),
    Measure("first", "held_first", "share of its state's variance in the largest direction of the coordinates"),
    Measure("components", "held_components", f"directions that hold {HELD:.0%} of that variance"),
    Measure("coordinates", "held_coordinates", "coordinates of its state, all that `components` can be", False),
    Measure("participation", "held_participation", "their participation ratio, (sum lambda)^2 / sum lambda^2"),
)  # fmt: skip
FACTORS = (
    Measure("mean", "mean", "mean over tokens"),
    Measure("varies", "varies", "standard deviation over the tokens of a prompt"),
    Measure("smallest", "smallest", "smallest of a prompt's tokens", False),
    Measure("largest", "largest", "largest of a prompt's tokens", False),
)
ATTENTION = (
    Measure("memory_gate", "memory_gate", "factor on what is attended to, 0 to 1, the same at every token", False),
    Measure("share", "attention_share", "share of attention in its sum with the recurrence's read-out, as for gates"),
    Measure("ratio", "attention_ratio", "root mean square of what it adds over that of the read-out"),
)
ABLATIONS = (
    Measure("change", "change", "of the answer's log-probability, nats: without the part less with it"),
    Measure("kl", "kl", "divergence of what is said without it from what is said with it, nats a token of the answer"),
)
PARAMETERS = (
    Measure("attribution", "attribution", "sum of value times derivative of the answer's log-probability: its slope by "
            "a common factor, nats"),
    Measure("magnitude", "magnitude", "sum of the absolute products"),
)  # fmt: skip

SCHEMAS = {
    "gates": schema([column("gate", pa.string(), "site of the gate")], GATES),
    "gate_pairs": schema(
        [column("gate", pa.string(), "site of one gate"), column("other", pa.string(), "site of another")], PAIRS
    ),
    "timescales": schema(
        [
            column("timescale", pa.string(), "its name"),
            column("start", pa.float64(), "decay before training"),
        ],
        TIMESCALES,
    ),
    "factors": schema([column("factor", pa.string(), "site of the factor on each token")], FACTORS),
    "attention": schema([], ATTENTION),
    "ablations": schema(
        [column("without", pa.string(), "gate or attention by its site, timescale by name; or factor held at its "
                "mean")],
        ABLATIONS,
        column("p", pa.float64(), "two-sided sign-flip p-value of no change; null for fewer than two prompts"),
        column("p_holm", pa.float64(), "corrected for all rows of this table"),
    ),
    "parameters": schema(
        [
            column("part", pa.string(), "what it belongs to: gates, compression, projections, timescales, attention, "
                   "gain"),
            column("parameter", pa.string(), "its name in the mixer"),
            column("size", pa.int32(), "numbers in it"),
        ],
        PARAMETERS,
    ),
}  # fmt: skip

Rows = list[dict[str, Any]]

_WORDS = {"compression": "compression", "gain": "gain", "sparse_attn": "sparse attention"}
VIEW = View(
    "Gates, timescales and sparse attention",
    "What the parts of Stable-Mamba do and what an answer loses without them, means over prompts with bootstrap "
    "intervals. A share is of a sum, <part, sum> / <sum, sum>; the shares of a block add up to 1. A gate that is taken "
    "away leaves its weight to the others: where that changes nothing, it is redundant.",
    (
        BarPart(part="timescales", x="timescale", y="memory_share", low="memory_share_low", high="memory_share_high",
                group="layer", title="Share of the read-out that each timescale remembers", label="share"),
        TablePart(
            part="timescales",
            title="Timescales",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("timescale"), Column("start", "decay at the start"),
                Column("decay", "decay", "decay_low", "decay_high"), Column("decay_varies", "varies by"),
                Column("weight"), Column("share", "share", "share_low", "share_high"),
                Column("memory_share", "without skip", "memory_share_low", "memory_share_high"),
                Column("components", "directions of 90 %", "components_low", "components_high"),
                Column("coordinates", "of"),
            ),
        ),
        TablePart(
            part="gates",
            title="Gates",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("gate"), Column("weight"),
                Column("opening", "lets through", "opening_low", "opening_high"),
                Column("share", "share", "share_low", "share_high"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="gate_pairs",
            title="Gates that open together",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("gate"), Column("other"),
                Column("correlation", "correlation", "correlation_low", "correlation_high", form="signed"),
                Column("mutual_information", "mutual information, nats", "mutual_information_low",
                       "mutual_information_high"),
                Column("by_chance", "by chance"),
            ),
        ),
        TablePart(
            part="attention",
            title="Sparse attention beside the recurrence",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("memory_gate", "memory gate"),
                Column("share", "share", "share_low", "share_high"),
                Column("ratio", "size over the read-out's", "ratio_low", "ratio_high"),
            ),
        ),
        TablePart(
            part="factors",
            title="Compression and gain",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("factor"), Column("mean", "mean", "mean_low", "mean_high"),
                Column("varies", "varies by", "varies_low", "varies_high"), Column("smallest"), Column("largest"),
            ),
        ),
        TablePart(
            part="ablations",
            title="What an answer loses without a part",
            only={"status": "ok"},
            sort=("change",),
            columns=(
                Column("layer"), Column("without"),
                Column("change", "log-probability, nats", "change_low", "change_high", form="signed"),
                Column("p_holm", "p", form="p", absent="–"), Column("kl", "divergence, nats", "kl_low", "kl_high"),
                Column("n_prompts", "prompts"),
            ),
            words=_WORDS,
        ),
        TablePart(
            part="parameters",
            title="Parameters that the answer hangs on, to first order",
            only={"status": "ok"},
            sort=("-magnitude",),
            top=24,
            folded=True,
            columns=(
                Column("layer"), Column("part"), Column("parameter"), Column("size"),
                Column("attribution", "attribution, nats", "attribution_low", "attribution_high", form="signed"),
                Column("magnitude", "sum of absolute products", "magnitude_low", "magnitude_high"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass from its block on for each ablation and one for the readings; of each prompt alone one back as well."""
    rows, passes = 0, 0.0
    for at in all_mixtures(asked.model, list(asked.layers)):
        parts = len(ablated(at.of))
        passes += (2.2 + parts) * (1 - at.layer / asked.model.n_layers)
        rows += 4 * parts
    read = min(1.0, asked.settings.prompts / max(1, len(lengths))) * sum(lengths)
    return Effort((passes + (9.0 if rows else 0.0)) * read, of_files(len(SCHEMAS)) + 250 * rows, 0.01)


@step("stable_mamba", version=1, settings=Settings, seeded=True, view=VIEW, cost=cost)
def stable_mamba(job: Job) -> Tables:
    """Stable-Mamba's gates, compression, timescales and sparse attention: redundancy, shares, ablation, attribution."""
    by_layer = {layer: mixtures_of(job.model, layer) for layer in job.layers}
    places = [mixture for mixtures in by_layer.values() for mixture in mixtures]
    without = [
        {"layer": layer, "status": NOT_APPLICABLE, "reason": NO_MIXTURE} for layer, its in by_layer.items() if not its
    ]
    tables: dict[str, Rows] = {name: [] for name in SCHEMAS}
    if places:
        chosen = [item.id for item in spread(job.items, job.settings.prompts)]
        where = {"layers": sorted({at.layer for at in places}), "ids": chosen}
        settings = job.settings
        read = Found(
            job.map(batch_readings, BATCH_SCHEMA, where | {"states": settings.states, "every": settings.every}), job
        )
        lost = Found(job.map(batch_ablations, BATCH_SCHEMA, where), job)
        slopes = Found(job.map(batch_parameters, BATCH_SCHEMA, where), job)
        for at in places:
            for name, rows in _of_readings(at, read).items():
                tables[name] += rows
            tables["ablations"] += [_ablation(at, what, lost) for what in ablated(at.of)]
            tables["parameters"] += _parameters(at, slopes, job)
        for row, corrected in zip(tables["ablations"], holm([r.get("p") for r in tables["ablations"]]), strict=True):
            row["p_holm"] = corrected
    return {name: pa.Table.from_pylist(tables[name] + without, schema=schema) for name, schema in SCHEMAS.items()}


def _of_readings(at: Mixture, read: Found) -> Mapping[str, Rows]:
    of = at.of
    pairs = [(gate, other) for k, gate in enumerate(of.gates) for other in of.gates[k + 1 :]]
    return {
        "gates": [read.row(at.place, GATES, gate, {"gate": gate}) for gate in of.gates],
        "gate_pairs": [read.row(at.place, PAIRS, gate, {"gate": gate, "other": other}, other) for gate, other in pairs]
        or [_missing(at, ONE_GATE)],
        "timescales": [
            read.row(at.place, TIMESCALES, name, {"timescale": name, "start": start})
            for name, start in zip(of.timescales, of.decays, strict=True)
        ],
        "factors": [read.row(at.place, FACTORS, factor, {"factor": factor}) for factor in of.factors],
        "attention": [_missing(at, NO_ATTENTION)]
        if of.attention is None
        else [read.row(at.place, ATTENTION, of.attention, {})],
    }


def _missing(at: Mixture, reason: str) -> dict[str, Any]:
    return {"layer": at.layer, "site": at.site, "status": NOT_APPLICABLE, "reason": reason}


def _ablation(at: Mixture, what: str, lost: Found) -> dict[str, Any]:
    return lost.row(at.place, ABLATIONS, what, {"without": what}) | {"p": lost.p_of_zero(at.place, "change", what)}


def _parameters(at: Mixture, slopes: Found, job: Job) -> Rows:
    named = job.model.blocks[at.layer].mixer.named_parameters()
    return [
        slopes.row(at.place, PARAMETERS, name, {"part": part, "parameter": name, "size": parameter.numel()})
        for name, parameter in named
        if (part := at.of.part_of(name)) is not None
    ]
