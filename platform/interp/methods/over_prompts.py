"""The traces of many prompts, one long table, as the averages that `averages` makes of traces one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ..engine.columns import column
from .averages import BIN_SCHEMA, average_traces
from .table import SCHEMA

if TYPE_CHECKING:
    from .prompts import FactItem
    from .trace_config import EffectSettings

_TOTAL = {
    "ate": ("total_effect", "mean over all traced prompts of the clean run's metric minus the corrupted runs' (ATE)"),
    "ate_low": ("total_effect_low", "lower end of its interval; null for fewer than two prompts"),
    "ate_high": ("total_effect_high", "upper end"),
}


def average_prompts(singles: Sequence[pa.Table], settings: EffectSettings, seed: int) -> pa.Table:
    """AIE per site (in the order of the traces), layer and bin, with ATE in three more columns that are the same in all
    rows; no row where no prompt was traced."""
    if singles:
        averages = average_traces(
            singles,
            correct_only=settings.correct_only,
            confidence=settings.confidence,
            n_resamples=settings.resamples,
            seed=seed,
        )
    else:
        averages = BIN_SCHEMA.empty_table()
    metadata: dict[bytes, bytes] = averages.schema.metadata or {}
    for name, (key, meaning) in _TOTAL.items():
        text = metadata.get(key.encode())
        values = pa.array([None if text is None else float(text)] * averages.num_rows, pa.float64())
        averages = averages.append_column(column(name, pa.float64(), meaning), values)
    return averages.replace_schema_metadata(metadata)


def shared_by_all(settings: EffectSettings, model: str, noise: float | None, seed: int) -> dict[str, str]:
    """What the metadata of all traces of a run have in common. model: its label."""
    same = {"metric": settings.metric, "window": str(getattr(settings, "window", 1)), "model": model}
    if noise is None:
        return same | {"corruption": "replacement"}
    return same | {"corruption": "noise", "noise": repr(noise), "seed": str(seed)}


def single_traces(
    traces: pa.Table, items: Sequence[FactItem], sites: Sequence[str], shared: Mapping[str, str]
) -> list[pa.Table]:
    """The traces of the prompts that have effects, by id, each as `causal_trace` gave it: rows by site in the order of
    `sites`, what it belongs to as metadata, of which `shared` is the same for all."""
    order = {site: i for i, site in enumerate(sites)}
    places: dict[str, list[int]] = {}
    of_row = traces["site"].to_pylist()
    for row, (name, status) in enumerate(zip(traces["id"].to_pylist(), traces["status"].to_pylist(), strict=True)):
        if status == "ok":
            places.setdefault(name, []).append(row)
    by_id = {item.id: item for item in items}
    singles: list[pa.Table] = []
    for name, rows in places.items():
        one = traces.take(sorted(rows, key=lambda row: order[of_row[row]]))  # stable: layers, positions stay in order
        item, first = by_id[name], one.slice(0, 1).to_pylist()[0]
        about = {
            **{key: repr(first[key]) for key in ("p_clean", "p_corrupted", "metric_clean", "metric_corrupted")},
            "answer": str(first["answer"]), "answer_given": str(first["correct"] is not None).lower(),
            "predicted": str(first["predicted"]), "subject": f"{item.subject[0]}:{item.subject[1]}",
            "length": str(len(item.tokens)), "id": name, **shared,
        }  # fmt: skip
        singles.append(one.select(SCHEMA.names).replace_schema_metadata(about))
    return singles
