"""Where in a model an answer is carried: clean values restored into corrupted runs of factual prompts (`tracing`).

The noise is that of all prompts together, three times the standard deviation of their subjects' embeddings (ROME), so
that every prompt meets the same.

Parts: `traces`, a row for each prompt, site, layer and position; `averages` over prompts (AIE) for each site, layer and
kind of token, with intervals, no row where no prompt was traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...core.errors import UsageError
from ..engine.batches import Batch
from ..engine.step import Asked, Job, Tables, step
from ..methods.fact_traces import trace_item, traces_and_averages
from ..methods.restoration import present
from ..methods.trace import causal_trace
from ..methods.trace_config import TraceSettings

if TYPE_CHECKING:
    from ...models import LanguageModel


def check(asked: Asked) -> None:
    """`Step.check`: sites and window that the model has."""
    present(asked.model, asked.settings.sites, asked.layers)
    if asked.settings.window > asked.model.n_layers:
        raise UsageError(
            f"--window {asked.settings.window}: {asked.model.name} has {asked.model.n_layers} blocks, so 1 to "
            f"{asked.model.n_layers} can be restored together"
        )


@step("causal_trace", items="facts", settings=TraceSettings, seeded=True, check=check)
def causal_trace_of_facts(job: Job) -> Tables:
    """Effects of restoring clean values in corrupted runs, by prompt, and their averages over prompts."""
    sites = present(job.model, job.settings.sites, job.layers)
    return traces_and_averages(job, batch_traces, sites, {"window": job.settings.window})


def batch_traces(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    return pa.concat_tables([trace_item(model, item, arguments, causal_trace) for item in batch.items])
