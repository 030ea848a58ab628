"""The traces of many prompts, one long table, as the averages that `averages` makes of traces one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from ...models.lending import label
from ..engine.columns import column
from .averages import average_traces
from .table import SCHEMA

if TYPE_CHECKING:
    from .trace_plan import TracePlan

_TOTAL = {
    "ate": ("total_effect", "mean over all traced prompts of the clean run's metric minus the corrupted runs' (ATE)"),
    "ate_low": ("total_effect_low", "lower end of its interval; null for fewer than two prompts"),
    "ate_high": ("total_effect_high", "upper end"),
}


def average_prompts(plan: TracePlan, traces: pa.Table) -> pa.Table:
    """AIE per site (in the plan's order), layer and bin, with ATE in three more columns that are the same in all rows.

    Raises InputError where no prompt was traced.
    """
    config = plan.config
    averages = average_traces(
        single_traces(plan, traces),
        correct_only=plan.correct_only,
        confidence=config.confidence,
        n_resamples=config.resamples,
        seed=config.seed,
    )
    metadata = averages.schema.metadata or {}
    for name, (key, meaning) in _TOTAL.items():
        text = metadata.get(key.encode())
        values = pa.array([None if text is None else float(text)] * averages.num_rows, pa.float64())
        averages = averages.append_column(column(name, pa.float64(), meaning), values)
    return averages.replace_schema_metadata(metadata)


def single_traces(plan: TracePlan, traces: pa.Table) -> list[pa.Table]:
    """The traces of the prompts that have effects, by id, each as `causal_trace` gave it: rows by site in the plan's
    order, what it belongs to as metadata."""
    order = {site: i for i, site in enumerate(plan.sites)}
    places: dict[str, list[int]] = {}
    sites = traces["site"].to_pylist()
    for row, (name, status) in enumerate(zip(traces["id"].to_pylist(), traces["status"].to_pylist(), strict=True)):
        if status == "ok":
            places.setdefault(name, []).append(row)
    items = {item.id: item for item in plan.items}
    found = []
    for name, rows in places.items():
        one = traces.take(sorted(rows, key=lambda row: order[sites[row]]))  # stable: layers and positions stay in order
        item, first = items[name], one.slice(0, 1).to_pylist()[0]
        noisy = item.corrupted is None
        about = {
            "p_clean": repr(first["p_clean"]), "p_corrupted": repr(first["p_corrupted"]), "metric": plan.config.metric,
            "metric_clean": repr(first["metric_clean"]), "metric_corrupted": repr(first["metric_corrupted"]),
            "answer": str(first["answer"]), "answer_given": str(first["correct"] is not None).lower(),
            "predicted": str(first["predicted"]), "corruption": "noise" if noisy else "replacement",
            "subject": f"{item.subject[0]}:{item.subject[1]}", "window": str(plan.config.window),
            "length": str(len(item.tokens)), "model": label(plan.model), "id": name,
        }  # fmt: skip
        if noisy:
            about |= {"noise": repr(plan.noise), "seed": str(plan.config.seed)}
        found.append(one.select(SCHEMA.names).replace_schema_metadata(about))
    return found
