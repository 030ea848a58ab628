"""Averages of traces over prompts: AIE per site, layer and token bin (or position), and ATE, with bootstrap intervals.

The unit is the prompt: its positions in a bin are averaged first, and prompts are resampled. All cells that the same
prompts have see the same resamples. What is stated with the numbers, as metadata: how many prompts were traced and how
many of them count ("answered correctly": what the clean run finds most probable is the given answer; or "all").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...core.errors import InputError, UsageError, suggest
from ..engine.columns import column
from .bins import BINS, bin_trace
from .table import about

Floats = NDArray[np.float64]
_CELLS_AT_ONCE = 256  # bounds memory: means of all resamples are held for so many cells

_AVERAGED = [
    column("effect", pa.float64(), "mean over prompts of the indirect effect (AIE)"),
    column("low", pa.float64(), "lower end of its percentile bootstrap interval; null for fewer than two prompts"),
    column("high", pa.float64(), "upper end"),
    column("prompts", pa.int32(), "prompts that have this cell"),
]  # fmt: skip
_SITE = [
    column("site", pa.string(), "what was restored"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
]  # fmt: skip
BIN_SCHEMA = pa.schema([*_SITE, column("bin", pa.string(), f"tokens, one of {', '.join(BINS)}"), *_AVERAGED])
POSITION_SCHEMA = pa.schema([*_SITE, column("position", pa.int32(), "token position, from 0"), *_AVERAGED])
#: what must be the same in all traces of an average
_COMMON = ("model", "metric", "corruption", "window")


class Interval(NamedTuple):
    """Means (k,) and their intervals (k,), NaN for fewer than two prompts."""

    mean: Floats
    low: Floats
    high: Floats


def average_traces(
    traces: Sequence[pa.Table],
    *,
    correct_only: bool = True,
    by: Literal["bin", "position"] = "bin",
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pa.Table:
    """Mean indirect effects over the prompts of `traces` (of `causal_trace`), by site, layer and bin or position.

    correct_only: only prompts whose given answer is what the clean run finds most probable; traces need answer=...
    by: "position" is for prompts of one length. Metadata: traced, used, prompts (which count), total_effect,
    total_effect_low, total_effect_high (ATE: mean of metric_clean - metric_corrupted), confidence, n_resamples, seed,
    noise (the standard deviation, or "per prompt"), model, metric, corruption, window.

    Raises UsageError for traces that cannot be averaged together or whose right answer is not known, InputError where
    no prompt is left.
    """
    if by not in ("bin", "position"):
        raise UsageError(f"by={by!r}; {suggest(str(by), ('bin', 'position'))}")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise UsageError(f"confidence lies between 0 and 1, n_resamples above 0, not {confidence} and {n_resamples}")
    known = [about(trace) for trace in traces]
    common = _common(known)
    used = [i for i, what in enumerate(known) if not correct_only or _correct(what, i)]
    if not used:
        counted = "answered correctly" if correct_only else "traced"
        raise InputError(
            f"none of {len(traces)} prompts was {counted}: there is nothing to average"
            + ("; correct_only=False takes all" if correct_only and traces else "")
        )
    if by == "position" and len({known[i]["length"] for i in used}) > 1:
        raise UsageError("the prompts have different lengths, so that positions do not correspond; use by='bin'")
    values = [_cells(traces[i], by) for i in used]
    keys = _ordered(values, by)
    grid = np.array([[prompt.get(key, np.nan) for key in keys] for prompt in values])
    found = bootstrap_means(grid, confidence, n_resamples, seed)
    rows = [
        {
            "site": site, "layer": layer, by: where, "effect": float(found.mean[i]), "low": _number(found.low[i]),
            "high": _number(found.high[i]), "prompts": int(np.isfinite(grid[:, i]).sum()),
        }
        for i, (site, layer, where) in enumerate(keys)
    ]  # fmt: skip
    totals = [float(known[i]["metric_clean"]) - float(known[i]["metric_corrupted"]) for i in used]
    total = bootstrap_means(np.array(totals)[:, None], confidence, n_resamples, seed)
    noises = {known[i].get("noise") for i in used} - {None}
    metadata = common | {
        "traced": str(len(traces)), "used": str(len(used)), "prompts": "answered correctly" if correct_only else "all",
        "total_effect": repr(float(total.mean[0])), "confidence": repr(confidence), "n_resamples": str(n_resamples),
        "seed": str(seed),
    }  # fmt: skip
    if len(used) > 1:
        metadata |= {"total_effect_low": repr(float(total.low[0])), "total_effect_high": repr(float(total.high[0]))}
    if noises:
        metadata["noise"] = str(next(iter(noises))) if len(noises) == 1 else "per prompt"
    schema = BIN_SCHEMA if by == "bin" else POSITION_SCHEMA
    return pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))


def _common(known: Sequence[dict[str, str]]) -> dict[str, str]:
    for i, what in enumerate(known):
        if "metric_clean" not in what:
            raise UsageError(f"trace {i} does not say what was traced: pass what causal_trace returned, with metadata")
        for key in _COMMON:
            if what.get(key) != known[0].get(key):
                raise UsageError(
                    f"traces 0 and {i} differ in {key} ({known[0].get(key)} and {what.get(key)}): average them apart"
                )
    return {key: known[0][key] for key in _COMMON} if known else {}


def _correct(what: dict[str, str], i: int) -> bool:
    if what["answer_given"] != "true":
        raise UsageError(
            f"trace {i} was made without answer=..., so that it is not known whether the model answers correctly; "
            "trace with the right answer, or take all prompts with correct_only=False"
        )
    return what["predicted"] == what["answer"]


def _cells(trace: pa.Table, by: str) -> dict[tuple[str, int, Any], float]:
    table = bin_trace(trace) if by == "bin" else trace
    columns = (table[name].to_pylist() for name in ("site", "layer", by, "effect"))
    return {(site, layer, where): effect for site, layer, where, effect in zip(*columns, strict=True)}


def _ordered(values: Sequence[dict[tuple[str, int, Any], float]], by: str) -> list[tuple[str, int, Any]]:
    """All cells: sites in the order of the first trace that has them, layers and bins ascending."""
    cells = dict.fromkeys(key for prompt in values for key in prompt)
    sites = {site: i for i, site in enumerate(dict.fromkeys(key[0] for key in cells))}
    return sorted(cells, key=lambda c: (sites[c[0]], c[1], BINS.index(c[2]) if by == "bin" else c[2]))


def bootstrap_means(grid: Floats, confidence: float, n_resamples: int, seed: int) -> Interval:
    """Means over the finite entries of each column of `grid` (n, k), with percentile bootstrap intervals."""
    mean, low, high = (np.full(grid.shape[1], np.nan) for _ in range(3))
    patterns, of = np.unique(np.isfinite(grid), axis=1, return_inverse=True)
    tail = (1 - confidence) / 2
    for number, present in enumerate(patterns.T):
        columns = np.flatnonzero(of.reshape(-1) == number)
        values = grid[np.ix_(present, columns)]
        n = len(values)
        mean[columns] = values.mean(0)
        if n < 2:
            continue
        drawn = np.random.default_rng(seed).integers(0, n, size=(n_resamples, n))
        cells = (drawn + n * np.arange(n_resamples)[:, None]).ravel()
        counts = np.bincount(cells, minlength=n_resamples * n).reshape(n_resamples, n) / n
        for start in range(0, len(columns), _CELLS_AT_ONCE):
            part = slice(start, start + _CELLS_AT_ONCE)
            bounds = np.quantile(counts @ values[:, part], [tail, 1 - tail], axis=0)
            low[columns[part]], high[columns[part]] = bounds
    return Interval(mean, low, high)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
