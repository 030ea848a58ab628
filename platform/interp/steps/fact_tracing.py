"""How much of the answer comes back when what a model holds of a stated fact is restored, site by site and later on.

For `prompts` prompts that state their answer (`evidence`), spread evenly over the questions, noise on the tokens that
state it makes the answer improbable; then one clean value at a time is restored, see `tracing.causal_trace`: at the
fact's first and last token, at some distances after it, and at the last token. `memory_decay` reads how this falls with
distance, and `layer_specialisation` where along the depth it lies. Restoring h alone misses what travels through the
convolution's window, so the window is a site of its own, and both together another.

Rows are single prompts: no average is taken here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import AfterValidator, Field

from ...core.errors import InputError
from ..engine.batches import Batch, Item, spread
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.restoration import present
from ..methods.table import about
from ..tracing import causal_trace, prompt_seed, token_bins

if TYPE_CHECKING:
    from ...models import LanguageModel


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if min(values, default=-1) < 0 or list(values) != sorted(set(values)):
        raise ValueError("distances are tokens after the fact's last one: ascending, from 0 on, each once")
    return values


class Settings(StepSettings):
    small = {"prompts": 3, "samples": 1, "distances": (0, 4)}

    sites: Sites = ("mixer_out", "mlp_out?", "h_post?", "conv_state?", "h_post+conv_state?")
    """what to restore (with ?: where the model has it); several at once joined by +"""
    prompts: int = Field(24, ge=1)
    """prompts to trace, spread evenly over those that state their answer"""
    distances: Annotated[tuple[int, ...], AfterValidator(named_once), AfterValidator(_ascending)] = (
        0, 1, 2, 4, 8, 16, 32, 64, 128,
    )  # fmt: skip
    """tokens after the fact's last one at which to restore"""
    samples: int = Field(3, ge=1, le=1000)
    """draws of the noise, for each prompt its own"""
    window: int = Field(1, ge=1)
    """layers restored together, around each"""
    metric: Literal["prob", "logprob"] = "prob"


SCHEMA = pa.schema([
    column("question_id", pa.string(), "the prompt"),
    column("site", pa.string(), "what was restored; several sites joined by +"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("position", pa.int32(), "token of the prompt, from 0"),
    column("distance", pa.int32(), "tokens from the fact's last one; negative inside the fact"),
    column("bin", pa.string(), "where the token stands: subject_first, subject_middle, subject_last (of the fact), "
           "further, last (of the prompt)"),
    column("effect", pa.float64(), "restored run's metric minus the corrupted run's, mean over samples"),
    column("metric_clean", pa.float64(), "metric of the clean run: the answer's first token at the last position"),
    column("metric_corrupted", pa.float64(), "of the corrupted runs, mean over samples"),
    column("correct", pa.bool_(), "whether the clean run finds the answer's first token most probable"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: the prompt does not state its answer; or why "
           "the question was not used"),
    column("reason", pa.string(), "what is wrong; null where the status is ok"),
])  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: the sites that are not optional exist and can be restored."""
    present(asked.model, asked.settings.sites, asked.layers)


VIEW = View(
    "What brings back the answer to a stated fact",
    "Noise on the tokens that state the answer makes it improbable; then one clean value at a time is restored, at one "
    "layer and token. A site that brings the answer back is enough for it, given all that is the same in both runs; it "
    "need not be necessary. These are single prompts: `layer_specialisation` and `memory_decay` average over them.",
    (
        MapPart(
            rows="layer",
            columns="position",
            value="effect",
            each=("question_id", "site"),
            only={"status": "ok"},
            most=6,
            title="{question_id}: {site} restored",
            label="effect",
            scale="signed",
            words=SITE_WORDS,
        ),
        TablePart(
            title="The largest effects",
            only={"status": "ok"},
            sort=("-effect",),
            top=10,
            columns=(
                Column("question_id", "prompt"), Column("site", "restored"), Column("layer"),
                Column("position", "token"), Column("distance", "tokens after the fact"),
                Column("effect", form="signed"), Column("metric_clean", "clean"),
                Column("metric_corrupted", "corrupted"), Column("correct", "answered right"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A run for each noise, site, layer and distance, as if every prompt stated its answer; about half of a run is
    spared, because it begins where something is restored."""
    settings = asked.settings
    sites = len(present(asked.model, settings.sites, asked.layers)) * len(asked.layers)
    restored = sites * len(settings.distances) * min(settings.prompts, len(lengths))
    tokens = restored * settings.samples * sum(lengths) / max(1, len(lengths))
    return Effort(0.47 * tokens, of_files(1) + 8 * restored)


@step("fact_tracing", version=2, settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def fact_tracing(job: Job) -> Tables:
    """Effects of restoring what is held of a stated fact, at the fact and at distances after it."""
    stated = [item for item in job.items if item.fact is not None]
    chosen = [item.id for item in spread(stated, job.settings.prompts)]
    arguments = {
        "ids": chosen, "layers": list(job.layers), "seed": job.seed % 2**63,
        "sites": present(job.model, job.settings.sites, job.layers),
    } | job.settings.model_dump(mode="json", exclude={"sites", "prompts"})  # fmt: skip
    table = job.map(batch_traces, SCHEMA, arguments)
    order = {id_: number for number, id_ in enumerate(chosen)}
    numbers = np.array([order[id_] for id_ in table["question_id"].to_pylist()], np.int64)
    table = table.take(np.argsort(numbers, kind="stable"))  # prompts were planned by length; rows of one are in order
    left_out = [
        {"question_id": item.id, "status": NOT_APPLICABLE, "reason": "the prompt does not state its answer"}
        for item in job.items if item.fact is None
    ] + [{"question_id": e.id, "status": e.status, "reason": e.reason} for e in job.excluded]  # fmt: skip
    return {"": pa.concat_tables([table, pa.Table.from_pylist(left_out, schema=SCHEMA)])}


@torch.no_grad()
def batch_traces(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of the chosen prompts of one batch; prompts are traced one by one."""
    rows: list[dict[str, Any]] = []
    for item in batch.items:
        if item.id in arguments["ids"]:
            try:
                rows += _trace(model, item, arguments)
            except InputError as error:
                rows.append({"question_id": item.id, "status": "model_nonfinite", "reason": str(error)})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _trace(model: LanguageModel, item: Item, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    assert item.fact is not None
    table = causal_trace(
        model, torch.tensor(item.prompt, device=model.device), subject=item.fact, sites=arguments["sites"],
        layers=arguments["layers"], positions=positions(item, arguments["distances"]), samples=arguments["samples"],
        seed=prompt_seed(arguments["seed"], item.id), window=arguments["window"], answer=item.answer[0],
        metric=arguments["metric"],
    )  # fmt: skip
    known = about(table)
    bins = token_bins(len(item.prompt), item.fact)
    common = {
        "question_id": item.id, "metric_clean": float(known["metric_clean"]), "status": "ok",
        "metric_corrupted": float(known["metric_corrupted"]), "correct": known["predicted"] == known["answer"],
    }  # fmt: skip
    return [
        common
        | {name: row[name] for name in ("site", "layer", "position", "effect")}
        | {"distance": row["position"] - item.fact[1] + 1, "bin": bins[row["position"]]}
        for row in table.to_pylist()
    ]


def is_read(row: Mapping[str, Any]) -> bool:
    """Whether what a row restores can have an effect: nobody reads a post-step state at the prompt's last token."""
    leaves = [part.rpartition(".")[2] for part in row["site"].split("+")]
    return row["bin"] != "last" or not all(leaf in ("h_post", "conv_state", "state") for leaf in leaves)


def positions(item: Item, distances: list[int]) -> list[int]:
    """Where to restore: the fact's first and last token, those at the distances after it, and the prompt's last."""
    assert item.fact is not None
    start, stop = item.fact
    after = (stop - 1 + distance for distance in distances)
    return sorted({start, stop - 1, len(item.prompt) - 1, *(p for p in after if p < len(item.prompt))})
