"""How long the recurrent state keeps a fact: what its decays allow, what restoring it shows, what the answers say.

Three views of one question, in the same unit, tokens after the fact:

- `half_lives`: ln 2 / (Delta |A|) of every state coordinate at its mean Delta; and, with Delta token by token, its
  horizon at the end of a prompt, max k with S(k) = exp(-|A| sum of the last k Deltas) >= theta, mean over prompts. A
  prompt that ends before a coordinate has forgotten bounds its horizon from below only: such are counted as censored.
- `restoration`: the mean effect of restoring the state after step fact + distance into a run whose fact is noise, from
  `fact_tracing`. Convolutions alone carry a fact over a few tokens: their window stands beside it as the control.
- `behaviour`: share of right answers by the distance of the fact, with what the decays leave of it, over all prompts
  and within each sort of question: far facts stand in other questions than near ones.

`layers` puts the first two side by side. A coordinate with a long half-life can keep a fact and need not: the first
view is a bound, the second an effect. A half-distance of restoration is given only where restoring has an effect above
zero (see `fading`; Holm over the recurrences) whose interval at the curve's peak lies above zero, and it comes with its
own interval. A post-step state at the prompt's last token is read by nobody and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ...scoring.statistics import bootstrap_mean, holm, wilson
from ..engine.batches import Item
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.places import SITE_WORDS, rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.fading import Fading, fading, same_prompts
from ..methods.forgetting import BATCH_SCHEMA, batch_forgetting
from ..methods.half_lives import SCHEMA as HALF_LIVES_SCHEMA
from ..methods.half_lives import half_lives
from ..methods.recurrences import LayerRecurrence, recurrences_of
from .fact_tracing import is_read

#: restored sites that are memory: the state, the convolution's window, and both
MEMORY = ("h_post", "conv_state", "h_post+conv_state")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Settings(StepSettings):
    small = {"resamples": 100, "traced": "all"}

    theta: float = Field(0.5, gt=0, lt=1)
    """share that must be left for a coordinate to count as keeping: 0.5 makes horizons of half-lives"""
    traced: Literal["correct", "all"] = "correct"
    """traced prompts that count: those whose answer's first token the model finds most probable, or all"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """of the bootstrap, and random signs where prompts are too many to try all"""
    confidence: float = Field(0.95, gt=0, lt=1)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
]
_STATUS = column("status", pa.string(), "ok; model_nonfinite; not_applicable: there is nothing to measure")
_PROMPTS = column("n_prompts", pa.int32(), "prompts counted")

LAYERS_SCHEMA = pa.schema([
    *_PLACE,
    *(column(f"half_life_q{round(100 * q):02d}", pa.float64(), f"quantile {q} of half_life_tokens") for q in QUANTILES),
    *(column(f"horizon_q{round(100 * q):02d}", pa.float64(), f"quantile {q} of horizon_tokens") for q in QUANTILES),
    column("horizon_censored", pa.float64(), "share of pairs of coordinate and prompt where the prompt ends before "
           "theta is reached; above 0 the upper quantiles of horizon_tokens are lower bounds"),
    column("survival", pa.float64(), "what is left of the fact at the last token, mean over coordinates and prompts"),
    column("restored_half", pa.int32(), "half-distance of restoring h_post: the last traced distance before its mean "
           "effect, over the same prompts at every distance, falls below half of its maximum; null where it was not "
           "traced, or no effect above zero is shown"),
    column("restored_half_low", pa.int32(), "lower end of its bootstrap interval"),
    column("restored_half_high", pa.int32(), "upper end; null where it lies beyond the farthest distance"),
    column("restored_half_censored", pa.bool_(), "the effect never falls below half: restored_half is a lower bound"),
    column("restored_p", pa.float64(), "one-sided sign-flip p-value of no effect of h_post above zero at any distance"),
    column("restored_p_holm", pa.float64(), "corrected for all recurrences"),
    column("restored_prompts", pa.int32(), "prompts behind restored_half"),
    _STATUS,
])  # fmt: skip
RESTORATION_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("site", pa.string(), "what was restored after the step: h_post, conv_state, or both"),
    column("distance", pa.int32(), "tokens from the fact's last one to that step"),
    column("effect", pa.float64(), "mean over prompts of the restored minus the corrupted run's metric"),
    column("low", pa.float64(), "lower end of its bootstrap interval; null for fewer than two prompts"),
    column("high", pa.float64(), "upper end"),
    column("fraction", pa.float64(), "effect over the mean of clean minus corrupted metric of the same prompts; null "
           "where that is not positive"),
    column("same_prompts", pa.bool_(), "whether the row is of the prompts that have every distance up to the farthest "
           "that half of them have: such rows of a layer and site are comparable; others are of those long enough"),
    _PROMPTS, _STATUS,
])  # fmt: skip
BEHAVIOUR_SCHEMA = pa.schema([
    column("kind", pa.string(), "category and hops of the questions; null: all of them together"),
    column("distance_from", pa.int32(), "tokens from the fact's end to the prompt's last token, at least"),
    column("distance_to", pa.int32(), "at most"),
    column("accuracy", pa.float64(), "share of teacher-forced answers that are right"),
    column("low", pa.float64(), "lower end of its Wilson interval; null for fewer than two prompts"),
    column("high", pa.float64(), "upper end"),
    column("logprob", pa.float64(), "mean log-probability of the answer, nats"),
    column("surviving", pa.float64(), "share of state coordinates of all layers with at least theta of the fact left"),
    _PROMPTS, _STATUS,
])  # fmt: skip

Rows = list[dict[str, Any]]
#: (site, layer) -> prompt -> distance -> its row of `fact_tracing`
Curves = dict[tuple[str, int], dict[str, dict[int, dict[str, Any]]]]


VIEW = View(
    "How long the state keeps a fact",
    "Three views in one unit, tokens after the fact: what the decays allow, what restoring the state shows, and what "
    "the answers say. A long half-life is room for a fact, not proof of one; the convolution's window carries facts "
    "over a few tokens too.",
    (
        LinePart(
            part="layers",
            x="layer",
            y="half_life_q50",
            low="half_life_q05",
            high="half_life_q95",
            group="site",
            title="Half-lives of the layers",
            explains="Median over the coordinates of the state; the band holds nine in ten of them.",
            label="tokens",
            log_y=True,
        ),
        LinePart(
            part="behaviour",
            x="distance_from",
            y="accuracy",
            low="low",
            high="high",
            only={"kind": None},
            title="Right answers by distance of the fact",
            explains="Of all questions, with Wilson intervals.",
            x_label="tokens from the fact's end, at least",
            label="share right",
            log_x=True,
        ),
        MapPart(
            part="behaviour",
            rows="kind",
            columns="distance_from",
            value="accuracy",
            title="Right answers within kinds of question",
            explains="Far facts stand in other questions than near ones: compare along a row.",
            label="share right",
            words={None: "all questions"},
        ),
        MapPart(
            part="restoration",
            rows="layer",
            columns="distance",
            value="effect",
            only={"same_prompts": True},
            each=("site",),
            title="Restored: {site}",
            explains="Mean effect over the same prompts at every distance.",
            label="effect",
            scale="signed",
            words=SITE_WORDS,
        ),
        TablePart(
            part="layers",
            title="By layer",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("half_life_q50", "half-life, median"),
                Column("horizon_q50", "horizon, median"), Column("survival", "left of the fact at the end"),
                Column("restored_half", "half-distance of restoring", "restored_half_low", "restored_half_high",
                       absent="none shown"),
                Column("restored_p_holm", "p", form="p", absent="–"), Column("restored_prompts", "prompts", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


@step(
    "memory_decay",
    version=2,
    needs=("fact_tracing",),
    settings=Settings,
    seeded=True,
    view=VIEW,
    cost=passes(5.3, bytes=290, layer_bytes=115_000, seconds=0.3),
)
def memory_decay(job: Job) -> Tables:
    """How long the state keeps a fact: half-lives, restoration against distance, accuracy against distance."""
    by_layer = {layer: recurrences_of(job.model, layer) for layer in job.layers}
    decays = [decay for decays in by_layer.values() for decay in decays]
    without: Rows = [{"layer": layer, "status": NOT_APPLICABLE} for layer, its in by_layer.items() if not its]
    arguments = {"layers": list(job.layers), "theta": job.settings.theta}
    passed = job.map(batch_forgetting, BATCH_SCHEMA, arguments).to_pylist()
    curves = _curves(job)
    restoration = _restoration(job, curves)
    half_distances = _half_distances(decays, curves, restoration, job)
    longest = max((len(item.prompt) for item in job.items), default=0)
    spectra = {(decay.layer, decay.site): half_lives(decay, passed, longest) for decay in decays}
    tables = {
        "half_lives": ([row for rows in spectra.values() for row in rows] + without, HALF_LIVES_SCHEMA),
        "layers": ([_layer(d, spectra, passed, half_distances) for d in decays] + without, LAYERS_SCHEMA),
        "restoration": (restoration, RESTORATION_SCHEMA),
        "behaviour": (_behaviour(job, passed), BEHAVIOUR_SCHEMA),
    }
    return {name: pa.Table.from_pylist(rows, schema=schema) for name, (rows, schema) in tables.items()}


def _layer(
    decay: LayerRecurrence,
    spectra: dict[tuple[int, str], Rows],
    passed: Rows,
    half_distances: dict[tuple[int, str], Any],
) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": decay.layer, "site": decay.site, "status": "ok"}
    spectrum = spectra[decay.layer, decay.site]
    if any(r["status"] != "ok" for r in spectrum):
        return row | {"status": "model_nonfinite"}
    for name, label in (("half_life_tokens", "half_life"), ("horizon_tokens", "horizon")):
        values = np.quantile([r[name] for r in spectrum], QUANTILES)
        row |= {f"{label}_q{round(100 * q):02d}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
    row["horizon_censored"] = float(np.mean([r["horizon_censored"] for r in spectrum]))
    here = rows_at(passed, decay.layer, decay.site)
    left = [r["survival"] for r in here if r["survival"] is not None]
    row["survival"] = float(np.mean(left)) if left else None
    return row | half_distances.get((decay.layer, decay.site), {})


def _curves(job: Job) -> Curves:
    """What counts of the traces, in the order of sites and layers."""
    curves: Curves = {}
    for row in job.upstream["fact_tracing"][""].to_pylist():
        if row["status"] != "ok" or row["site"] not in MEMORY or row["distance"] < 0 or not is_read(row):
            continue
        if row["correct"] or job.settings.traced == "all":
            curve = curves.setdefault((row["site"], row["layer"]), {})
            curve.setdefault(row["question_id"], {})[row["distance"]] = row
    return {key: curves[key] for key in sorted(curves, key=lambda key: (MEMORY.index(key[0]), key[1]))}


def _effects(curve: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, dict[int, float]]:
    return {id_: {distance: row["effect"] for distance, row in rows.items()} for id_, rows in curve.items()}


def _restoration(job: Job, curves: Curves) -> Rows:
    """Mean effects over prompts by site, layer and distance."""
    result: Rows = []
    for (site, layer), curve in curves.items():
        ids, comparable = same_prompts(_effects(curve))
        for distance in sorted({d for of_prompt in curve.values() for d in of_prompt}):
            same = distance in comparable
            rows = [curve[id_][distance] for id_ in (ids if same else curve) if distance in curve[id_]]
            about = {"site": site, "layer": layer, "distance": distance, "same_prompts": same, "n_prompts": len(rows)}
            mean = _interval([row["effect"] for row in rows], job)
            total = float(np.mean([row["metric_clean"] - row["metric_corrupted"] for row in rows]))
            fraction = mean["effect"] / total if total > 0 else None
            result.append(about | mean | {"fraction": fraction, "status": "ok"})
    failed = any(row["status"] == "model_nonfinite" for row in job.upstream["fact_tracing"][""].to_pylist())
    nothing = "model_nonfinite" if failed else NOT_APPLICABLE  # no state, no stated fact, or none answered rightly
    return result or [{"n_prompts": 0, "status": nothing}]


def _half_distances(
    decays: Sequence[LayerRecurrence], curves: Curves, restoration: Rows, job: Job
) -> dict[tuple[int, str], dict[str, Any]]:
    """The columns `restored_...` of the recurrences that were traced."""
    how = {"seed": job.seed, "confidence": job.settings.confidence, "n_resamples": job.settings.resamples}
    fadings: dict[int, Fading] = {}
    for decay in decays:
        curve = curves.get(("h_post", decay.layer))
        if curve is None or decay.site != "mixer":  # `h_post` is the state of the block's own mixer, of no added one
            continue
        ids, distances = same_prompts(_effects(curve))
        if distances:
            values = [[curve[id_][d]["effect"] for d in distances] for id_ in ids]
            fadings[decay.layer] = fading(np.reshape(values, (len(ids), len(distances))), distances, **how)
    lows = {(r["layer"], r["distance"]): r["low"] for r in restoration if r.get("site") == "h_post"}
    result: dict[tuple[int, str], dict[str, Any]] = {}
    corrected = holm([of.p for of in fadings.values()])
    for (layer, of), p_holm in zip(fadings.items(), corrected, strict=True):
        row: dict[str, Any] = {"restored_p": of.p, "restored_p_holm": p_holm, "restored_prompts": of.n}
        low = None if of.peak is None else lows[layer, of.peak]
        if p_holm is not None and p_holm <= 1 - job.settings.confidence and low is not None and low > 0:
            row |= {"restored_half": of.half, "restored_half_low": of.low, "restored_half_high": of.high}
            row["restored_half_censored"] = of.censored
        result[layer, "mixer"] = row
    return result


def _interval(values: Sequence[float], job: Job) -> dict[str, Any]:
    settings = job.settings
    found = bootstrap_mean(
        values, seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples
    )  # fmt: skip
    return {"effect": found.mean, "low": found.low, "high": found.high}


def _behaviour(job: Job, passed: Rows) -> Rows:
    """Accuracy by distance, in bins that double, over all prompts and where there are several kinds within each."""
    kinds = sorted({item.kind for item in job.items if item.kind is not None and item.distance is not None})
    groups = [(None, job.items)]
    groups += [(kind, [i for i in job.items if i.kind == kind]) for kind in kinds] if len(kinds) > 1 else []
    rows = [{"kind": kind} | row for kind, items in groups for row in _accuracy(items, job, passed)]
    return rows or [{"n_prompts": 0, "status": NOT_APPLICABLE}]


def _accuracy(items: Sequence[Item], job: Job, passed: Rows) -> Rows:
    distances = {item.id: item.distance for item in items if item.distance is not None}
    outcomes = {r["question_id"]: r for r in passed if r["question_id"] is not None and r["layer"] is None}
    surviving: dict[str, list[float]] = {}
    for row in passed:
        if row["surviving"] is not None:
            surviving.setdefault(row["question_id"], []).append(row["surviving"])
    bins: dict[int, list[str]] = {}
    for id_, distance in distances.items():
        bins.setdefault(distance.bit_length(), []).append(id_)
    result: Rows = []
    for bits, ids in sorted(bins.items()):
        good = [outcomes[id_] for id_ in ids if outcomes[id_]["status"] == "ok"]
        row: dict[str, Any] = {"distance_from": 2**bits // 2, "distance_to": 2**bits - 1, "n_prompts": len(good)}
        if not good:
            result.append(row | {"status": "model_nonfinite"})
            continue
        share = wilson([r["correct"] for r in good], confidence=job.settings.confidence)
        row |= {"accuracy": share.mean, "low": share.low, "high": share.high, "status": "ok"}
        row["logprob"] = float(np.mean([r["logprob"] for r in good]))
        row["surviving"] = _mean(np.mean(surviving[id_]) for id_ in ids if id_ in surviving)
        result.append(row)
    return result


def _mean(values: Iterable[Any]) -> float | None:
    known = list(values)
    return float(np.mean(known)) if known else None
