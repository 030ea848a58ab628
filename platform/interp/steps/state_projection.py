"""The path of the recurrent state through a text, in the two or three directions in which it varies most.

For `texts` prompts, spread evenly over the questions, and each layer the states after all of its tokens, (tokens,
channels x coordinates), are projected on their own principal components; see `projection`. Components belong to one
text and one layer: coordinates of two of them have nothing in common but the method. How much of the variance a picture
shows is stated beside it, and how much it would show of a walk at random in as many directions: such a walk has smooth
curves and large first components too (Antognini and Sohl-Dickstein 2018, arXiv 1806.08805), so that only what goes
beyond says something of the state.

Parts: `paths`, a row for each token; `components`, a row for each component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from ..engine.batches import Batch, Item, spread
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.projection import principal_components, random_walk_ratio

if TYPE_CHECKING:
    from ...models import LanguageModel

AXES = ("x", "y", "z")


class Settings(StepSettings):
    texts: int = Field(4, ge=1)
    """prompts to project, spread evenly over the questions"""
    components: Literal[2, 3] = 3
    site: Literal["h", "h_post"] = "h"


_KEYS = [
    column("question_id", pa.string(), "the text"),
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "the state, relative to the block; null where the layer has none"),
]
_STATUS = column("status", pa.string(), "ok; model_nonfinite; bad_input: the text has fewer than two different states; "
                 "not_applicable: the layer has no recurrent state; or why the text was not used")  # fmt: skip

PATHS_SCHEMA = pa.schema([
    *_KEYS,
    column("position", pa.int32(), "token, from 0; null where there is no path"),
    column("token", pa.int32(), "its id"),
    *(column(axis, pa.float64(), f"coordinate in component {i}, in units of the state") for i, axis in enumerate(AXES)),
    _STATUS,
])  # fmt: skip

COMPONENTS_SCHEMA = pa.schema([
    *_KEYS,
    column("component", pa.int32(), "from 0, by variance"),
    column("variance", pa.float64(), "unbiased variance of the coordinates over the text's tokens"),
    column("variance_ratio", pa.float64(), "its share of the variance of the state over the text"),
    column("variance_ratio_walk", pa.float64(), "that share for a random walk of as many steps in many dimensions"),
    column("tokens", pa.int32(), "how many states were projected"),
    _STATUS,
])  # fmt: skip

BATCH_SCHEMA = pa.schema([
    *_KEYS, pa.field("tokens", pa.list_(pa.int32())),
    *(pa.field(axis, pa.list_(pa.float64())) for axis in AXES),
    pa.field("variance", pa.list_(pa.float64())), pa.field("ratio", pa.list_(pa.float64())), _STATUS,
])  # fmt: skip


VIEW = View(
    "The path of the state through a text",
    "The state after each token in the two directions in which it varies most, one picture for a text and layer; "
    "axes of two pictures have nothing in common. A walk at random shows smooth curves and large first components "
    "too: compare the shares of variance.",
    (
        LinePart(
            part="paths",
            x="x",
            y="y",
            only={"status": "ok"},
            each=("question_id", "layer", "site"),
            most=8,
            title="{question_id}, layer {layer}, {site}",
            x_label="first component",
            label="second component",
            path=True,
        ),
        TablePart(
            part="components",
            title="How much of the variance a picture shows",
            only={"status": "ok", "component": (0, 1)},
            top=40,
            columns=(
                Column("question_id", "text"), Column("layer"), Column("component"),
                Column("variance_ratio", "share of the variance"), Column("variance_ratio_walk", "of a walk at random"),
                Column("tokens"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A few texts are read; what takes time are the components of each state in double precision."""
    paths = min(asked.settings.texts, len(lengths)) * len(asked.layers)
    return Effort(sum(sorted(lengths)[-asked.settings.texts :]), of_files(2) + 2000 * paths, 0.04 * paths)


@step("state_projection", version=2, settings=Settings, view=VIEW, cost=cost)
def state_projection(job: Job) -> Tables:
    """Principal components of the recurrent state along a text, with explained variance."""
    chosen = [item.id for item in spread(job.items, job.settings.texts)]
    arguments = {"ids": chosen, "layers": list(job.layers)} | job.settings.model_dump(include={"components", "site"})
    order = {id_: number for number, id_ in enumerate(chosen)}
    by_text = job.map(batch_paths, BATCH_SCHEMA, arguments).to_pylist()
    by_text.sort(key=lambda row: (order[row["question_id"]], row["layer"], row["site"] or ""))
    by_text += [{"question_id": e.id, "layer": layer, "status": e.status} for e in job.excluded for layer in job.layers]
    paths, components = [], []
    for row in by_text:
        keys = {name: row.get(name) for name in ("question_id", "layer", "site", "status")}
        if row["status"] != "ok":
            paths.append(keys)
            components.append(keys)
            continue
        axes = AXES[: len(row["variance"])]
        for position, token in enumerate(row["tokens"]):
            paths.append(keys | {"position": position, "token": token} | {a: row[a][position] for a in axes})
        for number, (variance, ratio) in enumerate(zip(row["variance"], row["ratio"], strict=True)):
            about = {"component": number, "variance": variance, "variance_ratio": ratio, "tokens": len(row["tokens"])}
            components.append(keys | about | {"variance_ratio_walk": random_walk_ratio(number, len(row["tokens"]))})
    return {
        "paths": pa.Table.from_pylist(paths, schema=PATHS_SCHEMA),
        "components": pa.Table.from_pylist(components, schema=COMPONENTS_SCHEMA),
    }


@torch.no_grad()
def batch_paths(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each chosen text of the batch and layer."""
    rows: list[dict[str, Any]] = []
    for item in batch.items:
        if item.id not in arguments["ids"]:
            continue
        for layer in arguments["layers"]:  # one at a time: all states of a text and all layers would be large
            row = {"question_id": item.id, "layer": layer}
            sites = state_sites(model, layer, arguments["site"])
            rows += [row | _path(model, item, layer, site, arguments["components"]) for site in sites]
            rows += [] if sites else [row | {"status": NOT_APPLICABLE}]
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _path(model: LanguageModel, item: Item, layer: int, site: str, k: int) -> dict[str, Any]:
    states = states_along(model, item.prompt, f"blocks.{layer}.{site}")
    if not np.isfinite(states).all():
        return {"site": site, "status": "model_nonfinite"}
    if len(states) < 2 or not np.ptp(states, axis=0).any():
        return {"site": site, "status": "bad_input"}
    path = principal_components(states, min(k, states.shape[1]))
    values = {axis: column.tolist() for axis, column in zip(AXES, path.coordinates.T, strict=False)}
    return values | {
        "site": site, "tokens": list(item.prompt), "variance": path.variance.tolist(), "ratio": path.ratio.tolist(),
        "status": "ok",
    }  # fmt: skip


def state_sites(model: LanguageModel, layer: int, site: str) -> list[str]:
    """The states of block `layer` called `site` ("h", "h_post"), relative to it: none, one, or one for each mixer."""
    prefix = f"blocks.{layer}."
    inside = [s.name.removeprefix(prefix) for s in model.sites() if s.name.startswith(prefix)]
    return [name for name in inside if name.rpartition(".")[2] == site]


@torch.no_grad()
def states_along(model: LanguageModel, tokens: tuple[int, ...] | list[int], site: str) -> np.ndarray:
    """The state (T, channels x coordinates) at the full site name after each of T tokens, float64."""
    with model.capture(site) as captured:
        model(torch.tensor([list(tokens)], device=model.device), last_only=True)
    return captured[site][0].double().flatten(1).cpu().numpy()
