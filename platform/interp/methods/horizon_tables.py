"""Horizons of many prompts put together: means by category and length of prompt, their trend, and the control.

Pure functions of rows; intervals are bootstraps over questions, in their groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...scoring.statistics import bootstrap_mean, correlations, holm, paired_difference
from ..engine.batches import Item
from ..engine.columns import column
from .horizon_runs import OFF, ON, SERIES

Row = dict[str, Any]
#: view, recurrence, layer, site
Key = tuple[str, str, int | None, str | None]
KEY = ("view", "recurrence", "layer", "site")

_STATUS = column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason")
_REASON = column("reason", pa.string(), "why there is nothing; null where it is ok")
_N = column("n_prompts", pa.int32(), "prompts counted")
SUMMARY_SCHEMA = pa.schema([
    *SERIES,
    column("by", pa.string(), "which prompts: all; category; length: of those in one bin of prompt lengths"),
    column("category", pa.string(), "category of the questions; null unless by category"),
    column("length_from", pa.int32(), "tokens of the shortest prompt of the bin; null unless by length"),
    column("length_to", pa.int32(), "of the longest"),
    column("horizon", pa.float64(), "tokens before the last one, mean over prompts"),
    column("at_least", pa.float64(), "the same of at_least: smaller where not all distances were tried"),
    column("low", pa.float64(), "lower end of its bootstrap interval; null for fewer than two groups of questions"),
    column("high", pa.float64(), "upper end"),
    column("median", pa.float64(), "median over prompts"),
    column("censored", pa.float64(), "mean share of horizons that meet the prompt's beginning: above 0 the mean is a "
           "lower bound"),
    column("n_censored", pa.int32(), "prompts of which one does"),
    _N, _STATUS, _REASON,
])  # fmt: skip
TREND_SCHEMA = pa.schema([
    *SERIES,
    column("r", pa.float64(), "correlation of a prompt's horizon with its tokens; null where one does not vary"),
    column("r_within", pa.float64(), "the same within kinds of question"),
    column("p", pa.float64(), "two-sided permutation p-value of r_within"),
    column("p_holm", pa.float64(), "corrected for all rows of this table"),
    column("censored", pa.float64(), "mean share of censored horizons: these grow with the prompt of themselves"),
    _N, _STATUS, _REASON,
])  # fmt: skip
CONTROL_SCHEMA = pa.schema([
    column("view", pa.string(), "gradient or behaviour"),
    column("layer", pa.int32(), "block from which on the recurrences are looked at; null: all of the model"),
    column("bound", pa.int32(), "tokens before the last one that the convolutions of these blocks can see"),
    column("convolutions", pa.float64(), "horizon with the recurrences cut, mean over prompts"),
    column("longest", pa.int32(), "the longest of them; where not all distances were tried, at least"),
    column("beyond", pa.bool_(), "whether that is beyond the bound: the model has other ways through time"),
    column("model", pa.float64(), "horizon of the model as it is, mean over the same prompts"),
    column("difference", pa.float64(), "model less convolutions: what the recurrences add, tokens"),
    column("low", pa.float64(), "lower end of its interval"),
    column("high", pa.float64(), "upper end"),
    column("p", pa.float64(), "two-sided sign-flip p-value of no difference"),
    column("p_holm", pa.float64(), "corrected for all rows of this table"),
    column("past_bound", pa.float64(), "share of prompts whose horizon in the model is beyond the bound"),
    _N, _STATUS, _REASON,
])  # fmt: skip
CURVES_SCHEMA = pa.schema([
    *SERIES,
    column("distance", pa.int32(), "tokens before the last one; for behaviour, that are kept"),
    column("left", pa.float64(), "gradient: |dM/dx| over its maximum; behaviour: nats lost when "
           "older tokens are replaced; mean over prompts"),
    column("low", pa.float64(), "lower end of its bootstrap interval; null for fewer than two groups of questions"),
    column("high", pa.float64(), "upper end"),
    _N, _STATUS,
])  # fmt: skip


class How(NamedTuple):
    """Seed, confidence and number of resamples of every interval."""

    seed: int
    confidence: float
    n_resamples: int


def series_of(rows: Sequence[Row]) -> dict[Key, dict[str, Row]]:
    """Key -> question -> its row, those of status ok; a key without any is left with none."""
    found: dict[Key, dict[str, Row]] = {}
    for row in rows:
        of = found.setdefault((row["view"], row["recurrence"], row["layer"], row["site"]), {})
        if row["status"] == "ok":
            of[row["question_id"]] = row
    return found


def length_bins(lengths: Sequence[int], count: int) -> list[tuple[int, int]]:
    """At most `count` ranges (from, to) of lengths that hold about equally many; equal lengths stand together."""
    ordered = sorted(lengths)
    edges = sorted({ordered[min(len(ordered) - 1, -(-len(ordered) * (i + 1) // count) - 1)] for i in range(count)})
    result: list[tuple[int, int]] = []
    below = 0
    for edge in edges:
        inside = [n for n in ordered if below < n <= edge]
        result.append((inside[0], inside[-1]))
        below = edge
    return result


def summary(series: Mapping[Key, Mapping[str, Row]], items: Sequence[Item], bins: int, how: How) -> list[Row]:
    """Rows of SUMMARY_SCHEMA."""
    every: list[tuple[Row, list[Item]]] = [({"by": "all"}, list(items))]
    for category in sorted({item.category for item in items if item.category is not None}):
        every.append(({"by": "category", "category": category}, [i for i in items if i.category == category]))
    for low, high in length_bins([len(item.prompt) for item in items], bins):
        inside = [item for item in items if low <= len(item.prompt) <= high]
        every.append(({"by": "length", "length_from": low, "length_to": high}, inside))
    result: list[Row] = []
    for key, of in series.items():
        for about, group in every:
            known = [item for item in group if item.id in of]
            row = dict(zip(KEY, key, strict=True)) | about | {"n_prompts": len(known)}
            if known:
                result.append(row | _mean(known, of, how))
            elif about["by"] == "all":
                result.append(row | {"status": "model_nonfinite", "reason": "no prompt has one"})
    return result


def _mean(items: Sequence[Item], of: Mapping[str, Row], how: How) -> Row:
    values = [of[item.id]["horizon"] for item in items]
    found = bootstrap_mean(values, groups=[item.group or item.id for item in items], **how._asdict())
    censored, least = ([of[item.id][name] for item in items] for name in ("censored", "at_least"))
    return {
        "horizon": found.mean, "at_least": float(np.mean(least)), "low": found.low, "high": found.high,
        "median": float(np.median(values)),
        "censored": float(np.mean(censored)), "n_censored": sum(share > 0 for share in censored), "status": "ok",
    }  # fmt: skip


def trend(series: Mapping[Key, Mapping[str, Row]], items: Sequence[Item], how: How) -> list[Row]:
    """Rows of TREND_SCHEMA."""
    result: list[Row] = []
    for key, of in series.items():
        known = [item for item in items if item.id in of]
        if not known:
            continue
        values, lengths = [of[item.id]["horizon"] for item in known], [float(len(item.prompt)) for item in known]
        kinds = [item.kind or "" for item in known]
        (r,) = correlations([values], lengths, seed=how.seed, n_draws=how.n_resamples, strata=kinds)
        censored = float(np.mean([of[item.id]["censored"] for item in known]))
        result.append(
            dict(zip(KEY, key, strict=True))
            | {"r": r.r, "r_within": r.r_within, "p": r.p, "censored": censored, "n_prompts": len(known)}
            | {"status": "ok"}
        )
    for row, corrected in zip(result, holm([row["p"] for row in result]), strict=True):
        row["p_holm"] = corrected
    return result


def control(
    series: Mapping[Key, Mapping[str, Row]], items: Sequence[Item], bounds: Mapping[int | None, int], how: How
) -> list[Row]:
    """Rows of CONTROL_SCHEMA for every series that has one with the recurrences off. bounds: by layer."""
    result: list[Row] = []
    for (view, recurrence, layer, site), off in series.items():
        on = series.get((view, ON, layer, site), {})
        both = [item for item in items if item.id in on and item.id in off]
        if recurrence != OFF or not both:
            continue
        a, b = ([of[item.id]["horizon"] for item in both] for of in (on, off))
        groups = [item.group or item.id for item in both]
        found = paired_difference(a, b, groups=groups, shares=False, **how._asdict())
        longest = int(max(off[item.id]["at_least"] for item in both))
        past = [on[item.id]["at_least"] > bounds[layer] for item in both]
        result.append({
            "view": view, "layer": layer, "bound": bounds[layer], "convolutions": float(np.mean(b)),
            "longest": longest, "beyond": longest > bounds[layer], "model": float(np.mean(a)),
            "difference": found.mean, "low": found.low, "high": found.high, "p": found.p,
            "past_bound": float(np.mean(past)), "n_prompts": len(both), "status": "ok",
        })  # fmt: skip
    for row, corrected in zip(result, holm([row["p"] for row in result]), strict=True):
        row["p_holm"] = corrected
    return result


def curves(series: Mapping[Key, Mapping[str, Row]], items: Sequence[Item], how: How) -> list[Row]:
    """Rows of CURVES_SCHEMA: means over the prompts that are longer than a distance, where half of them are."""
    result: list[Row] = []
    for key, of in series.items():
        known = [item for item in items if item.id in of and of[item.id].get("distances")]
        left = {item.id: dict(zip(of[item.id]["distances"], of[item.id]["profile"], strict=True)) for item in known}
        for distance in sorted({d for found in left.values() for d in found}):
            here = [item for item in known if distance in left[item.id]]
            if 2 * len(here) < len(known):
                continue
            values, groups = [left[i.id][distance] for i in here], [i.group or i.id for i in here]
            found = bootstrap_mean(values, groups=groups, **how._asdict())
            about = {"distance": distance, "left": found.mean, "low": found.low, "high": found.high}
            result.append(dict(zip(KEY, key, strict=True)) | about | {"n_prompts": found.n, "status": "ok"})
    return result
