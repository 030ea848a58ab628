"""Where in a model an answer is carried: clean values restored into corrupted runs of factual prompts (`tracing`).

The noise is that of all prompts together, three times the standard deviation of their subjects' embeddings (ROME), so
that every prompt meets the same.

Parts: `traces`, a row for each prompt, site, layer and position; `averages` over prompts (AIE) for each site, layer and
kind of token, with intervals, no row where no prompt was traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...core.errors import UsageError
from ..engine.batches import Batch
from ..engine.effort import trace_bytes
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.fact_traces import trace_item, traces_and_averages
from ..methods.restoration import present
from ..methods.trace import causal_trace
from ..methods.trace_config import TraceSettings
from ..methods.trace_words import BIN_TITLES, SITE_MEANINGS

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


_EFFECTS = "mean indirect effect"
_SITES = {site: meaning for name, meaning in SITE_MEANINGS.items() for site in (name, f"mixer.{name}")}
_MEANINGS = {site: f"{site} ({meaning})" for site, meaning in _SITES.items()} | BIN_TITLES
_NAMES = {site: site for site in _SITES} | BIN_TITLES
_MOST = 100  # sites, which is all of them
PARTS = (
    LinePart(
        part="averages",
        only={"bin": tuple(name for name in BIN_TITLES if name != "prefix")},
        x="layer",
        y="effect",
        low="low",
        high="high",
        group="bin",
        each=("site",),
        most=_MOST,
        title="Restored: {site}",
        explains="Mean over prompts (AIE) with bootstrap intervals over them, a line for each kind of token; before "
        "the first corrupted one it is 0 by definition.",
        label=_EFFECTS,
        words=_MEANINGS,
    ),
    MapPart(
        part="averages",
        rows="bin",
        columns="layer",
        value="effect",
        each=("site",),
        most=_MOST,
        title="{site}: colours",
        explains="The same numbers as colours.",
        label=_EFFECTS,
        scale="signed",
        words=_NAMES,
    ),
    TablePart(
        part="averages",
        each=("site",),
        most=_MOST,
        title="{site}: the numbers",
        columns=(
            Column("layer"),
            Column("bin", "tokens"),
            Column("effect", f"{_EFFECTS} (AIE)", low="low", high="high"),
            Column("prompts"),
            Column("ate", "total effect of the corruption (ATE)", low="ate_low", high="ate_high"),
        ),
        top=2000,
        folded=True,
        words=_NAMES,
    ),
    TablePart(
        part="traces",
        title="Prompts without effects",
        only={"effect": None},
        columns=(Column("id", "prompt"), Column("status"), Column("reason", absent="")),
        top=20,
    ),
)
VIEW = View(
    "Where an answer is carried",
    "Every prompt is run clean and corrupted. A corrupted run is then given back one value of the clean run, at one "
    "layer and token, and the rest is computed anew: the indirect effect is how much of the metric comes back. What "
    "brings it back is enough for it, given all that is the same in both runs; that does not make it necessary, and "
    "another corruption can name other sites. Effects of several sites do not add up.",
    PARTS,
)


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A run of every sample for each site, block and token, as if every answer were right; most of a run is spared,
    because it begins where something is restored."""
    places = len(present(asked.model, asked.settings.sites, asked.layers)) * len(asked.layers)
    runs = places * asked.settings.samples
    return Effort(0.21 * runs * sum(length**2 for length in lengths), trace_bytes(places, lengths))


@step("causal_trace", items="facts", settings=TraceSettings, seeded=True, check=check, view=VIEW, cost=cost)
def causal_trace_of_facts(job: Job) -> Tables:
    """Effects of restoring clean values in corrupted runs, by prompt, and their averages over prompts."""
    sites = present(job.model, job.settings.sites, job.layers)
    return traces_and_averages(job, batch_traces, sites, {"window": job.settings.window})


def batch_traces(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    return pa.concat_tables([trace_item(model, item, arguments, causal_trace) for item in batch.items])
