"""What every restoration would bring back, estimated to first order at once: attribution patching of factual prompts.

Two forward passes and one backward pass give what `causal_trace` measures run by run, as a slope: where the model is
curved it is not the effect. Parts and columns are those of `causal_trace`, so that the two can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from ..engine.batches import Batch
from ..engine.effort import trace_bytes
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import View
from ..methods.attribution import attribution_patching, patched_places
from ..methods.fact_traces import trace_item, traces_and_averages
from ..methods.restoration import present, restorations
from ..methods.trace_config import EffectSettings
from .causal_trace import PARTS

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(EffectSettings):
    integrated_steps: int | None = Field(None, ge=1)
    """points between the corrupted and the clean prompt over which slopes are averaged; default: the corrupted alone"""


def check(asked: Asked) -> None:
    """`Step.check`: sites that the model has and that have a derivative."""
    sites = present(asked.model, asked.settings.sites, asked.layers)
    patched_places(asked.model, *restorations(asked.model, sites, asked.layers))


VIEW = View(
    "Where an answer is carried, to first order",
    "What `causal_trace` measures run by run, estimated as a slope from two runs and one backward pass: where the "
    "model is curved it is not the effect.",
    PARTS,
)


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Every sample forwards and backwards for each kind of restoration, as if every answer were right."""
    settings = asked.settings
    sites = len(present(asked.model, settings.sites, asked.layers))
    slopes = sites * settings.samples * (settings.integrated_steps or 1)
    return Effort(2.2 * slopes * sum(lengths), trace_bytes(sites * len(asked.layers), lengths))


@step("attribution_patching", items="facts", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def attribution_of_facts(job: Job) -> Tables:
    """First-order estimates of restoring clean values, by prompt, and their averages over prompts."""
    sites = present(job.model, job.settings.sites, job.layers)
    return traces_and_averages(job, batch_estimates, sites, {"integrated_steps": job.settings.integrated_steps})


def batch_estimates(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    return pa.concat_tables([trace_item(model, item, arguments, attribution_patching) for item in batch.items])
