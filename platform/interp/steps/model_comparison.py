"""Causal traces of several models side by side on the same factual prompts, each in its own tokens.

Layers go by their relative depth and tokens by where they stand, see `methods.comparison`: models differ in both. By
default only prompts count that every model answers correctly, so that all numbers are about the same ones.

Parts: `effects`, averages over prompts by model, kind of site, layer and kind of token; `prompts`, what each model says
to each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import Field

from ...models.lending import label
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.comparison import KINDS, SCHEMA, ModelAndPrompts, allowed_ids, kinds_of, rows_of_model, traced_sites
from ..methods.corruption import NOISE_STDS, items_noise
from ..methods.fact_runs import clean_run, fact_schema, rows_of_each
from ..methods.fact_traces import trace_item
from ..methods.over_prompts import single_traces
from ..methods.trace import causal_trace
from ..methods.trace_config import Metric
from ..methods.trace_schema import TRACE_SCHEMA
from ..methods.trace_words import BIN_TITLES

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    small = {"samples": 1, "counted": "all", "resamples": 100}
    kinds: Sites = tuple(KINDS)
    """residual, mixer, mlp, or names of sites that can be restored"""
    counted: Literal["common", "correct", "all"] = "common"
    """prompts that every model answers correctly, for each model those that it does, or all that every model reads"""
    metric: Metric = "prob"
    samples: int = Field(10, ge=1)
    """draws of the noise, for each prompt its own"""
    noise_stds: float = Field(NOISE_STDS, gt=0)
    """noise, in standard deviations of the subjects' embeddings in each model"""
    window: int = Field(1, ge=1)
    """layers restored together, around each"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(2000, ge=100)


ANSWERS = fact_schema(
    column("predicted_token", pa.string(), "the most probable token"),
    column("correct", pa.bool_(), "whether it is the first of the answer"),
)
PROMPTS = pa.schema([
    column("model", pa.string(), "name of the model"),
    *ANSWERS,
    column("counted", pa.bool_(), "whether the prompt is in the averages of this model"),
])  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: one of the models at least has each site."""
    kinds_of(named((asked.model, *asked.others)), asked.settings.kinds)


def named(models: tuple[LanguageModel, ...]) -> dict[str, LanguageModel]:
    """The models by name; one that is called like an earlier one gets its place behind the name."""
    found: dict[str, LanguageModel] = {}
    for number, model in enumerate(models, 1):
        found[model.name if model.name not in found else f"{model.name} ({number})"] = model
    return found


VIEW = View(
    "Models side by side",
    "Effects of restoring clean values in several models, by relative depth and kind of token. By default only prompts "
    "count that every model answers correctly.",
    (
        LinePart(
            part="effects",
            x="depth",
            y="effect",
            low="low",
            high="high",
            group="model",
            only={"status": "ok", "bin": ("subject_last", "last")},
            each=("kind", "bin"),
            title="Restored: {kind}, {bin}",
            x_label="depth, from the first block to the last",
            label="mean indirect effect",
            words=BIN_TITLES | {"residual": "residual stream"},
        ),
        TablePart(
            part="prompts",
            title="What the models say",
            columns=(
                Column("model"), Column("id", "prompt"), Column("predicted_token", "most probable token"),
                Column("correct"), Column("counted"), Column("status"),
            ),
            top=24,
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """The traces of `causal_trace` in every model, each as slow as it has parameters, as if all prompts counted."""
    models = named((asked.model, *asked.others))
    kinds = kinds_of(models, asked.settings.kinds)
    runs = sum(
        len(traced_sites(model, kinds)) * model.n_layers * model.n_active_parameters / asked.model.n_active_parameters
        for model in models.values()
    )
    tokens = 0.21 * runs * asked.settings.samples * sum(length**2 for length in lengths)
    return Effort(tokens, of_files(2) + 9_000 * len(models) * len(kinds) + 100 * len(lengths) * len(models))


@step(
    "model_comparison",
    items="facts",
    settings=Settings,
    seeded=True,
    check=check,
    others=("another model", ...),
    view=VIEW,
    cost=cost,
)
def comparison_of_facts(job: Job) -> Tables:
    """Mean effects of restoring clean values in several models, by kind of site, relative depth and kind of token."""
    settings: Settings = job.settings
    models = named(job.models)
    kinds = kinds_of(models, settings.kinds)
    items = [{item.id: item for item in of_model} for of_model in (job.items, *job.other_items)]
    ids = list(dict.fromkeys([*(id_ for known in items for id_ in known), *(e.id for e in job.excluded)]))
    answers = [
        {row["id"]: row for row in job.map(batch_answers, ANSWERS, {}, model=number).to_pylist()}
        for number in range(len(models))
    ]
    entries = [
        ModelAndPrompts(name, model, known, {i for i, row in said.items() if row["correct"]},
              {i for i, row in said.items() if row["status"] != "ok"})
        for (name, model), known, said in zip(models.items(), items, answers, strict=True)
    ]  # fmt: skip
    allowed = allowed_ids(entries, settings.counted)
    options = {"confidence": settings.confidence, "n_resamples": settings.resamples, "seed": job.seed}
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        counted = [id_ for id_ in ids if id_ in allowed[entry.name]]
        rows += rows_of_model(entry, kinds, _traces(job, number, entry, kinds, counted), options)
    excluded = {e.id: {"status": e.status, "reason": e.reason} for e in job.excluded}
    unread = {"status": "bad_input", "reason": "the model cannot read the prompt"}
    prompts = [
        {"model": entry.name, "id": id_, "counted": id_ in allowed[entry.name]}
        | (said.get(id_) or (excluded.get(id_, unread) if not number else unread))
        for number, (entry, said) in enumerate(zip(entries, answers, strict=True))
        for id_ in ids
    ]
    return {
        "effects": pa.Table.from_pylist(rows, schema=SCHEMA),
        "prompts": pa.Table.from_pylist(prompts, schema=PROMPTS),
    }


def _traces(
    job: Job, number: int, entry: ModelAndPrompts, kinds: Mapping[str, str], counted: list[str]
) -> list[pa.Table]:
    """The traces of the prompts that count, by one of the models, in their order."""
    settings: Settings = job.settings
    sites = traced_sites(entry.model, kinds)
    if not counted or not sites:
        return []
    chosen = [entry.items[id_] for id_ in counted]
    noise = items_noise(entry.model, chosen, None)
    arguments = {
        "ids": counted, "sites": sites, "seed": job.seed, "correct_only": False, "judged": "target",
        "noise": None if noise is None else noise * settings.noise_stds / NOISE_STDS,
        **settings.model_dump(mode="json", include={"samples", "window", "metric"}),
    }  # fmt: skip
    traces = job.map(batch_traces, TRACE_SCHEMA, arguments, model=number)
    order = {id_: place for place, id_ in enumerate(counted)}
    places = [order[id_] for id_ in traces["id"].to_pylist()]
    traces = traces.take(pa.array(sorted(range(len(places)), key=places.__getitem__), pa.int64()))  # stable
    shared = {"metric": settings.metric, "window": str(settings.window), "model": label(entry.model)}
    return single_traces(traces, chosen, sites, shared | {"corruption": "noise" if noise else "replacement"})


def batch_answers(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """What a model says to the prompts of one batch."""
    kept = ("predicted_token", "correct", "status", "reason")

    def rows_of(item: Any) -> list[dict[str, Any]]:
        said = clean_run(model, item, judged="target", correct_only=False)
        return [{name: said[name] for name in kept if name in said}]

    return rows_of_each(batch, ANSWERS, rows_of)


def batch_traces(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The traces of those prompts of one batch that count."""
    how = {name: value for name, value in arguments.items() if name != "ids"}
    found = [trace_item(model, item, how, causal_trace) for item in batch.items if item.id in arguments["ids"]]
    return pa.concat_tables(found) if found else TRACE_SCHEMA.empty_table()
