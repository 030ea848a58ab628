"""Half-lives and horizons of every state coordinate of a recurrence, as rows: what `batch_forgetting` saw, merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from ..engine.columns import column
from ..engine.places import rows_at
from .decays import half_life
from .moments import merge_rows
from .recurrences import LayerRecurrence
from .typed_tensors import tensor_of

SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
    column("unit", pa.int32(), "channel (Mamba, modal filter) or head (Mamba-2)"),
    column("state", pa.int32(), "coordinate of the unit; null where all of them decay alike"),
    column("delta_mean", pa.float64(), "mean Delta over all tokens of the prompts; null for modal filters"),
    column("half_life_tokens", pa.float64(), "ln 2 / (mean Delta |A|)"),
    column("extrapolated", pa.bool_(), "whether that is longer than the longest prompt, so that no prompt shows it"),
    column("horizon_tokens", pa.float64(), "horizon at theta at the last token, mean over prompts; at most the prompt: "
           "a lower bound where horizon_censored is above 0"),
    column("horizon_censored", pa.float64(), "share of prompts that end before theta is reached"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: there is nothing to measure"),
])  # fmt: skip


def half_lives(decay: LayerRecurrence, passed: Sequence[dict[str, Any]], longest: int) -> list[dict[str, Any]]:
    """A row of SCHEMA for each coordinate. passed: rows of `batch_forgetting`; longest: tokens of any prompt."""
    parts = [row for row in rows_at(passed, decay.layer, decay.site) if row["question_id"] is None]
    units, count = decay.A.shape
    delta = merge_rows(parts, units, "delta_")
    reach, censored = (merge_rows(parts, units * count, name) for name in ("horizon_", "censored_"))
    shared = count == 1 and decay.delta is not None
    lives = half_life(decay.rate, tensor_of(delta.mean)) if delta.n else torch.full((units, count), torch.nan)
    result: list[dict[str, Any]] = []
    for unit in range(units):
        for state in range(count):
            row = {"layer": decay.layer, "site": decay.site, "unit": unit, "state": None if shared else state}
            values = {
                "delta_mean": None if decay.delta is None else float(delta.mean[unit]),
                "half_life_tokens": float(lives[unit, state]),
                "extrapolated": bool(lives[unit, state] > longest),
                "horizon_tokens": float(reach.mean[unit * count + state]),
                "horizon_censored": float(censored.mean[unit * count + state]),
                "status": "ok",
            }
            row |= {"n_prompts": reach.n}
            result.append(row | (values if reach.n else {"status": "model_nonfinite"}))
    return result
