"""Which channels, and which coordinates of a state, carry the difference between a clean and a corrupted prompt.

The terms of `attribution_patching` inside one site, at the subject's last token and at every block that has the site:
means over prompts. A slope, and no effect where the model is curved: it says where to look, `bottlenecks` what it
costs to be without.

Parts: `coordinates`, one row for each channel (and coordinate) of each block; `prompts`, which ones were used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ...core.errors import UsageError
from ..engine.batches import Batch
from ..engine.columns import column, ranks
from ..engine.effort import of_files
from ..engine.places import places, relative_names
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import Column, TablePart, View
from ..methods.coordinate_attribution import SCHEMA as TERMS
from ..methods.coordinate_attribution import coordinate_attribution
from ..methods.corruption import items_noise
from ..methods.fact_runs import clean_run, completed, corruption_of, fact_schema, rows_of_each
from ..methods.trace_config import CorruptionSettings

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(CorruptionSettings):
    site: str = "h_post?"
    """site of each block (with ?: where the model has it)"""


PROMPTS = fact_schema(
    column("correct", pa.bool_(), "whether the clean run finds the target's first token most probable"),
    column("position", pa.int32(), "the subject's last token"),
    column("effects", pa.list_(pa.float64()), "of `coordinates`, in the order of its rows"),
    more="; model_wrong: the model answers otherwise",
)
COORDINATES = pa.schema([
    *(TERMS.field(name) for name in ("site", "layer", "channel", "coordinate")),
    column("effect", pa.float64(), "its term of the estimated effect of restoring the site, mean over prompts"),
    column("standard_error", pa.float64(), "of that mean, over prompts; null for fewer than two"),
    column("rank", pa.int32(), "1 is the largest |effect| of the block; ties in the order of the rows"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("status", pa.string(), "ok; not_applicable: the block has no such site, or no prompt counts"),
])  # fmt: skip
VIEW = View(
    "Which coordinates carry the difference",
    "First-order terms of restoring one site at the subject's last token: slopes, no effects.",
    (
        TablePart(
            part="coordinates",
            only={"status": "ok"},
            sort=("rank", "layer"),
            top=30,
            columns=(Column("layer"), Column("site"), Column("channel"), Column("coordinate", absent=""),
                     Column("effect", form="signed"), Column("standard_error", "standard error")),
        ),
    ),
)  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: the site is one of the model's, or optional."""
    for name in relative_names(asked.model, [asked.settings.site]):
        if not any(site.name.endswith(f".{name}") and site.dtype.startswith("float") for site in asked.model.sites()):
            raise UsageError(f"site {name!r} holds no real numbers, and has no derivative")


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Every sample forwards and backwards, as if every answer were right; a row for each coordinate."""
    named = relative_names(asked.model, [asked.settings.site])
    found = places(asked.model, asked.layers, named, one_axis=False) if named else []
    rows = sum(math.prod(place.shape) for place in found)
    return Effort(5.2 * asked.settings.samples * sum(lengths), of_files(2) + 22 * rows)


@step("coordinate_attribution", items="facts", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def coordinates_of_facts(job: Job) -> Tables:
    """Which channels and state coordinates of a site carry the difference at the subject, to first order."""
    settings: Settings = job.settings
    names = relative_names(job.model, [settings.site])
    having = {place.layer for place in places(job.model, job.layers, [*names, "mixer_out?"], one_axis=False)
              if place.site in names}  # fmt: skip
    prompts = PROMPTS.empty_table()
    if having:
        arguments = {
            "site": names[0], "layers": sorted(having), "seed": job.seed,
            "noise": items_noise(job.model, job.items, settings.noise),
            **settings.model_dump(mode="json", exclude={"site", "noise"}),
        }  # fmt: skip
        prompts = job.map(batch_terms, PROMPTS, arguments)
    prompts = completed(prompts, job)
    used = [row["effects"] for row in prompts.select(["effects"]).to_pylist() if row["effects"] is not None]
    rows = _coordinates(job.model, names[0], sorted(having), np.array(used)) if having and used else []
    without = [i for i in job.layers if i not in having] if used else job.layers
    rows += [{"layer": i, "status": NOT_APPLICABLE} for i in without]
    return {"coordinates": pa.Table.from_pylist(rows, schema=COORDINATES), "prompts": prompts.drop_columns(["effects"])}


def _coordinates(model: LanguageModel, site: str, layers: list[int], used: np.ndarray) -> list[dict[str, Any]]:
    """The rows of `COORDINATES`; used (prompts, coordinates of all blocks)."""
    mean, rows, start = used.mean(0), list[dict[str, Any]](), 0
    error = used.std(0, ddof=1) / np.sqrt(len(used)) if len(used) > 1 else None
    for place in places(model, layers, [site], one_axis=False):
        index = np.indices(place.shape).reshape(len(place.shape), -1)
        rank = ranks(np.abs(mean[start : start + index.shape[1]]))
        for i, where in enumerate(index.T.tolist()):
            rows.append({
                "site": place.site, "layer": place.layer, "channel": where[0], "effect": float(mean[start + i]),
                "coordinate": where[1] if len(where) > 1 else None, "rank": int(rank[i]), "n_prompts": len(used),
                "standard_error": None if error is None else float(error[start + i]), "status": "ok",
            })  # fmt: skip
        start += index.shape[1]
    return rows


def batch_terms(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The terms of the prompts of one batch."""
    how = {name: arguments[name] for name in ("layers", "samples", "metric")}

    def rows_of(item: Any) -> list[dict[str, Any]]:
        said = clean_run(model, item, judged=arguments["judged"], correct_only=arguments["correct_only"])
        if said["status"] != "ok":
            return [said]
        corruption = corruption_of(item, seed=arguments["seed"], noise=arguments["noise"])
        tokens, other, position = torch.tensor(item.tokens), corruption.pop("corrupted", None), item.subject[1] - 1
        table = coordinate_attribution(
            model, tokens, other, arguments["site"], position, answer=said["answer"], **corruption, **how
        )
        return [{"correct": said["correct"], "position": position, "effects": table["effect"].to_pylist()}]

    return rows_of_each(batch, PROMPTS, rows_of)
