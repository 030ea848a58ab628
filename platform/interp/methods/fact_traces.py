"""Traces of factual prompts as one long table: exact restorations, or estimates of them, by prompt, and averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...core.errors import InputError, UsageError
from ...models.lending import label
from ..engine.step import BatchFunction, Job, Tables
from .bins import token_bins
from .corruption import items_noise
from .fact_runs import clean_run, corruption_of
from .memory import Memory
from .over_prompts import average_prompts, shared_by_all, single_traces
from .table import about
from .trace_schema import TRACE_ORDER, TRACE_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...models import LanguageModel
    from .prompts import FactItem
    from .trace_config import EffectSettings

#: `causal_trace` or one with its arguments and its table
Method = Callable[..., pa.Table]


def traces_and_averages(job: Job, batch: BatchFunction, sites: Sequence[str], own: Mapping[str, Any]) -> Tables:
    """The tables of a step whose batch function is `batch`, which calls `trace_item`. own: arguments of its method."""
    settings: EffectSettings = job.settings
    noise = items_noise(job.model, job.items, settings.noise)
    budget = settings.memory_mib * 2**20
    Memory(job.model, max(job.lengths), budget)  # refuses what is too small
    arguments = {
        "sites": list(sites), "layers": list(job.layers), "metric": settings.metric, "samples": settings.samples,
        "noise": noise, "seed": job.seed, "memory_budget": budget, "correct_only": settings.correct_only,
        "judged": settings.judged, **own,
    }  # fmt: skip
    rows = job.map(batch, TRACE_SCHEMA, arguments)
    more = [{"id": e.id, "status": e.status, "reason": e.reason} for e in job.excluded]
    traces = pa.concat_tables([rows, pa.Table.from_pylist(more, schema=TRACE_SCHEMA)])
    traces = traces.sort_by([(column, "ascending") for column in TRACE_ORDER]).combine_chunks()
    singles = single_traces(traces, job.items, sites, shared_by_all(settings, label(job.model), noise, job.seed))
    return {"traces": traces, "averages": average_prompts(singles, settings, job.seed)}


def trace_item(model: LanguageModel, item: FactItem, arguments: Mapping[str, Any], method: Method) -> pa.Table:
    """The rows of one prompt. arguments: those of `method` that all prompts share, `correct_only` (prompts that the
    model answers otherwise are not traced) and `judged` ("target" or "predicted")."""
    shared = {name: value for name, value in arguments.items() if name not in ("correct_only", "judged")}
    said = clean_run(model, item, judged=arguments["judged"], correct_only=arguments["correct_only"])
    row = {"id": item.id, **said}
    if row["status"] != "ok":
        return pa.Table.from_pylist([row], schema=TRACE_SCHEMA)
    how = corruption_of(item, seed=arguments["seed"], noise=arguments["noise"])
    try:
        traced = method(model, torch.tensor(item.tokens), answer=row["answer"], **(shared | how))
    except InputError as error:  # the tokens were checked before: nothing but scores that are not finite is left
        return _without(row, "model_nonfinite", str(error))
    except UsageError as error:  # of this prompt; settings that suit no prompt are refused before anything runs
        return _without(row, "bad_input", str(error))
    known = about(traced)
    row |= {name: float(known[name]) for name in ("p_clean", "p_corrupted", "metric_clean", "metric_corrupted")}
    bins = token_bins(len(item.tokens), item.subject)
    return _with(traced, row, [bins[position] for position in traced["position"].to_pylist()])


def _with(traced: pa.Table, row: Mapping[str, Any], bins: list[str]) -> pa.Table:
    """The rows of a trace with what they have in common."""
    columns: list[pa.Array] = []
    for field in TRACE_SCHEMA:
        if field.name == "bin":
            columns.append(pa.array(bins, field.type))
        elif field.name in traced.column_names:
            columns.append(traced[field.name].combine_chunks())
        else:
            columns.append(pa.array([row.get(field.name)] * len(bins), field.type))
    return pa.table(columns, schema=TRACE_SCHEMA)


def _without(row: Mapping[str, Any], status: str, reason: str) -> pa.Table:
    """The one row of a prompt without effects."""
    return pa.Table.from_pylist([{**row, "status": status, "reason": reason}], schema=TRACE_SCHEMA)
