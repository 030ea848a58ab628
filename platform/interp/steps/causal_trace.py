"""Where in a model an answer is carried: clean values restored into corrupted runs of factual prompts (`tracing`).

A prompt is traced by itself, with the same arguments wherever and beside whatever others it is done, so that its rows
depend on nothing else. What goes wrong with one prompt becomes a row that says so. The noise is that of all prompts
together, three times the standard deviation of their subjects' embeddings (ROME), so that every prompt meets the same.

Parts: `traces`, a row for each prompt, site, layer and position; `averages` over prompts (AIE) for each site, layer and
kind of token, with intervals, no row where no prompt was traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...core.errors import InputError, UsageError
from ...models.lending import label
from ..engine.batches import Batch
from ..engine.statuses import MODEL_WRONG
from ..engine.step import Asked, Job, Tables, step
from ..methods.bins import token_bins
from ..methods.corruption import items_noise, prompt_seed
from ..methods.memory import Memory
from ..methods.over_prompts import average_prompts, shared_by_all, single_traces
from ..methods.restoration import restorations
from ..methods.table import about, token_labels
from ..methods.trace import causal_trace
from ..methods.trace_config import TraceSettings
from ..methods.trace_schema import TRACE_ORDER, TRACE_SCHEMA

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..methods.prompts import FactItem


def check(asked: Asked) -> None:
    """`Step.check`: sites and window that the model has."""
    restorations(asked.model, asked.settings.sites, asked.layers)
    if asked.settings.window > asked.model.n_layers:
        raise UsageError(
            f"--window {asked.settings.window}: {asked.model.name} has {asked.model.n_layers} blocks, so 1 to "
            f"{asked.model.n_layers} can be restored together"
        )


@step("causal_trace", items="facts", settings=TraceSettings, seeded=True, check=check)
def causal_trace_of_facts(job: Job) -> Tables:
    """Effects of restoring clean values in corrupted runs, by prompt, and their averages over prompts."""
    settings: TraceSettings = job.settings
    sites = [r.name for r in restorations(job.model, settings.sites, job.layers)[0]]
    noise = items_noise(job.model, job.items, settings.noise)
    budget = settings.memory_mib * 2**20
    Memory(job.model, max(len(item.tokens) for item in job.items), budget)  # refuses what is too small
    arguments = {
        "sites": sites, "layers": list(job.layers), "window": settings.window, "metric": settings.metric,
        "samples": settings.samples, "noise": noise, "seed": job.seed, "memory_budget": budget,
        "correct_only": settings.correct_only, "judged": settings.judged,
    }  # fmt: skip
    rows = job.map(batch_traces, TRACE_SCHEMA, arguments)
    more = [{"id": e.id, "status": e.status, "reason": e.reason} for e in job.excluded]
    traces = pa.concat_tables([rows, pa.Table.from_pylist(more, schema=TRACE_SCHEMA)])
    traces = traces.sort_by([(column, "ascending") for column in TRACE_ORDER]).combine_chunks()
    shared = shared_by_all(settings, label(job.model), noise, job.seed)
    singles = single_traces(traces, job.items, sites, shared)
    return {"traces": traces, "averages": average_prompts(singles, settings, job.seed)}


@torch.no_grad()
def batch_traces(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    return pa.concat_tables([trace_item(model, item, arguments) for item in batch.items])


def trace_item(model: LanguageModel, item: FactItem, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of one prompt. arguments: those of `causal_trace` that all prompts share, `correct_only` (prompts that
    the model answers otherwise are not traced) and `judged` ("target" or "predicted")."""
    shared = {name: value for name, value in arguments.items() if name not in ("correct_only", "judged")}
    tokens = torch.tensor(item.tokens)
    logits = model(tokens[None].to(model.device))[0, -1]
    row: dict[str, Any] = {"id": item.id}
    if not bool(torch.isfinite(logits).all()):
        return _without(row, "model_nonfinite", "the clean run's logits are not finite")
    predicted = int(logits.argmax())
    target = predicted if item.answer is None else item.answer
    answer = target if arguments["judged"] == "target" else predicted
    said, expected, judged = token_labels(model, [predicted, target, answer])
    row |= {"answer": answer, "answer_token": judged, "predicted": predicted, "predicted_token": said}
    row |= {"correct": None if item.answer is None else predicted == target}
    if arguments["correct_only"] and row["correct"] is False:
        row["p_clean"] = float(torch.softmax(logits.double(), -1)[answer])
        return _without(row, MODEL_WRONG, f"the model says {said!r}, not {expected!r}")
    how: dict[str, Any] = {"subject": item.subject, "seed": prompt_seed(arguments["seed"], item.id)}
    if item.corrupted is not None:
        how |= {"corrupted": torch.tensor(item.corrupted), "noise": None}
    try:
        traced = causal_trace(model, tokens, answer=answer, **(shared | how))
    except InputError as error:  # the tokens were checked before: nothing but scores that are not finite is left
        return _without(row, "model_nonfinite", str(error))
    except UsageError as error:  # of this prompt; settings that suit no prompt are refused before anything runs
        return _without(row, "bad_input", str(error))
    known = about(traced)
    measured = ("p_clean", "p_corrupted", "metric_clean", "metric_corrupted")
    row |= {name: float(known[name]) for name in measured} | {"status": "ok"}
    bins = token_bins(len(item.tokens), item.subject)
    return _with(traced, row, [bins[position] for position in traced["position"].to_pylist()])


def _with(traced: pa.Table, row: Mapping[str, Any], bins: list[str]) -> pa.Table:
    """The rows of a trace with what they have in common."""
    columns = []
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
