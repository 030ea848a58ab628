"""What the model holds at chosen tokens of each prompt: one row for each question, layer, site and position.

A vector is little-endian float32 (or float16) in a column of fixed-size binary; the part's schema metadata says dtype
and shape, and `vectors` reads them back. Each site has a part of its own, because sites differ in width.
A question that could not be used, or whose prompt is too short for a position, has rows with a status and no vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import field_validator

from ...core.errors import InputError, UsageError
from ...core.json_files import parse
from ..engine.batches import Batch, Item
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, Place, places
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import EVERY, Column, TablePart, View

if TYPE_CHECKING:
    from ...models import LanguageModel

_KINDS = {"float32": "<f4", "float16": "<f2"}


class Settings(StepSettings):
    sites: Sites = ("resid_post", "mixer_out", "mixer.delta?")
    """sites of each block, with ? where the model has it; states (mixer.h) too, where positions are listed"""
    positions: tuple[int, ...] | Literal["all"] = (-1,)
    """tokens of the prompt, negative from its end; or all"""
    dtype: Literal["float32", "float16"] = "float32"

    @field_validator("positions")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        return value if value == "all" else named_once(value)


def check(asked: Asked) -> None:
    """`Step.check`: the sites exist, and a state is not asked for at every token."""
    found = places(asked.model, asked.layers, asked.settings.sites, one_axis=False)
    uneven = next((p for p in found for q in found if p.site == q.site and p.shape != q.shape), None)
    if uneven is not None:
        raise UsageError(f"site {uneven.site!r} differs in width; choose blocks where it is {uneven.shape}")
    states = {p.site for p in found if len(p.shape) > 1}
    if states and asked.settings.positions == "all":
        raise UsageError(f"values of {', '.join(sorted(states))} at all positions are too many; list positions")


BATCH_SCHEMA = pa.schema([
    column("question_id", pa.string(), "the question"),
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("position", pa.int32(), "token of the prompt, from 0; null where there is no such token"),
    column("status", pa.string(), "ok; model_nonfinite; or why the question was not used: too_long, bad_input"),
    column("vector", pa.binary(), "the site's values; null unless the status is ok"),
])  # fmt: skip


VIEW = View(
    "What the model holds at the chosen tokens",
    "Which vectors there are, one file for each site; `vectors` of this step reads them. Vectors are for other "
    "analyses and say nothing by themselves.",
    (
        TablePart(
            part=EVERY,
            each=("site",),
            title="{site}",
            words=SITE_WORDS,
            columns=tuple(Column(name) for name in ("question_id", "layer", "position", "status")),
            top=3,
        ),
    ),
)


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """One pass; every vector is written."""
    settings = asked.settings
    found = places(asked.model, asked.layers, settings.sites, one_axis=False)
    tokens = sum(lengths) if settings.positions == "all" else len(lengths) * len(settings.positions)
    width = sum(math.prod(place.shape) for place in found) * (4 if settings.dtype == "float32" else 2)
    return Effort(1.7 * sum(lengths), of_files(len({place.site for place in found})) + 0.85 * width * tokens)


@step("activations", version=1, settings=Settings, check=check, view=VIEW, cost=cost)
def activations(job: Job) -> Tables:
    """Vectors of the residual stream, the mixer's output and Delta at the last token of each prompt."""
    settings = job.settings
    found = places(job.model, job.layers, settings.sites, one_axis=False)
    arguments = {"layers": list(job.layers)} | settings.model_dump(mode="json")
    table = job.map(batch_activations, BATCH_SCHEMA, arguments)
    left_out = [
        {"question_id": e.id, "layer": p.layer, "site": p.site, "status": e.status} for e in job.excluded for p in found
    ]
    table = pa.concat_tables([table, pa.Table.from_pylist(left_out, schema=BATCH_SCHEMA)])
    shapes = {place.site: place.shape for place in found}
    return {site: _part(table, site, shape, settings.dtype) for site, shape in shapes.items()}


def vectors(part: pa.Table) -> NDArray[np.floating[Any]]:
    """Vectors of a part's rows with status ok, (rows, *shape)."""
    metadata = part.schema.metadata or {}
    try:
        shape, kind = parse(metadata[b"shape"], "its shape"), _KINDS[metadata[b"dtype"].decode()]
        values = part["vector"].drop_null().to_pylist()
        return np.frombuffer(b"".join(values), kind).reshape(len(values), *shape)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not activations: the table's schema does not say dtype and shape ({error})") from error


def _part(table: pa.Table, site: str, shape: tuple[int, ...], dtype: str) -> pa.Table:
    width = prod(shape) * np.dtype(_KINDS[dtype]).itemsize
    chosen = table.filter(pc.field("site") == site)
    chosen = chosen.sort_by([(name, "ascending") for name in ("question_id", "layer", "position")])
    index = chosen.schema.get_field_index("vector")
    field = chosen.schema.field(index).with_type(pa.binary(width))
    chosen = chosen.set_column(index, field, chosen["vector"].cast(pa.binary(width)))
    return chosen.replace_schema_metadata(
        {"dtype": dtype, "byte_order": "little", "shape": json.dumps(list(shape)), "site": site}
    )


@torch.no_grad()
def batch_activations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of one batch."""
    asked = places(model, arguments["layers"], arguments["sites"], one_axis=False)
    positions: Sequence[int] | None = None if arguments["positions"] == "all" else arguments["positions"]
    long_enough = [item for item in batch.items if positions is None or all(_has(item, p) for p in positions)]
    rows = [
        {"question_id": item.id, "layer": p.layer, "site": p.site, "status": "bad_input"}
        for item in batch.items if item not in long_enough for p in asked
    ]  # fmt: skip
    if long_enough:
        tokens, mask = Batch(long_enough, batch.device).prompts()
        where = "" if positions is None else f"@[{','.join(map(str, positions))}]"
        with model.capture(*[p.name + where for p in asked]) as captured:
            model(tokens, mask)
        for place in asked:
            values = captured[place.name].float().cpu().numpy()
            rows += _rows(place, long_enough, values, positions, arguments["dtype"])
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _has(item: Item, position: int) -> bool:
    return -len(item.prompt) <= position < len(item.prompt)


def _rows(
    place: Place, items: Sequence[Item], values: NDArray[np.float32], positions: Sequence[int] | None, dtype: str
) -> list[dict[str, Any]]:
    """Rows of one site; values (B, P, ...) at `positions`, or (B, T, ...) padded on the right."""
    rows = []
    for item, of_item in zip(items, values, strict=True):
        length = len(item.prompt)
        absolute = range(length) if positions is None else [p % length for p in positions]
        for position, vector in zip(absolute, of_item, strict=positions is not None):
            finite = bool(np.isfinite(vector).all())
            with np.errstate(over="ignore"):
                stored = vector.astype(_KINDS[dtype])
            if finite and not np.isfinite(stored).all():
                raise InputError(
                    f"{place.name}: a value of {np.abs(vector).max():.3g} is too large for {dtype}; "
                    "set activations.dtype=float32"
                )
            rows.append({
                "question_id": item.id, "layer": place.layer, "site": place.site, "position": position,
                "status": "ok" if finite else "model_nonfinite", "vector": stored.tobytes() if finite else None,
            })  # fmt: skip
    return rows
