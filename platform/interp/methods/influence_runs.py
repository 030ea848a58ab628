"""Influence maps of the prompts of one batch: squared Jacobians between the residual stream's tokens, block by block.

Two spans: `block`, from what enters a block to what leaves it, and `onwards`, from what enters it to what leaves the
last block. The first block's `onwards` is the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..engine.batches import Batch
from ..engine.statuses import NOT_APPLICABLE
from .horizon_runs import ONE_TOKEN
from .influence import InfluenceMap
from .jacobians import directions_of, squared_jacobians
from .typed_tensors import floats

if TYPE_CHECKING:
    from ...models import LanguageModel

BLOCK, ONWARDS = SPANS = ("block", "onwards")
BATCH_SCHEMA = pa.schema(
    [("question_id", pa.string()), ("span", pa.string()), ("layer", pa.int32()), ("group", pa.string()),
     ("positions", pa.list_(pa.int32())), ("squares", pa.list_(pa.float64())), ("directions", pa.int32()),
     ("exact", pa.bool_()), ("status", pa.string()), ("reason", pa.string())]
)  # fmt: skip


def batch_influence(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """arguments: `ids` of the prompts to do, `layers`; `positions`, how many tokens t of each; `exact_up_to`,
    `directions`, `seed`: see `directions_of`."""
    layers: list[int] = arguments["layers"]
    end = f"blocks.{model.n_layers - 1}.resid_post"
    begins = {layer: f"blocks.{layer}.resid_pre" for layer in layers}
    spans = [(f"blocks.{layer}.resid_post", [name]) for layer, name in begins.items()] + [(end, list(begins.values()))]
    rows: list[dict[str, Any]] = []
    for item in (item for item in batch.items if item.id in set(arguments["ids"])):
        about = {"question_id": item.id, "group": item.group or item.id}
        if len(item.prompt) < 2:
            rows.append(about | {"status": NOT_APPLICABLE, "reason": ONE_TOKEN})
            continue
        width = model.config.d_model
        how = {"exact_up_to": arguments["exact_up_to"], "count": arguments["directions"], "seed": arguments["seed"]}
        directions, exact = directions_of(width, id_=item.id, **how)
        positions = chosen_positions(len(item.prompt), arguments["positions"])
        found = squared_jacobians(model, item.prompt, spans, positions, directions)
        about |= {"positions": positions, "directions": len(directions), "exact": exact}
        for number, (layer, name) in enumerate(begins.items()):
            for span, squares in ((BLOCK, found[number][name]), (ONWARDS, found[-1][name])):
                row = about | {"span": span, "layer": layer, "squares": floats(squares.flatten()), "status": "ok"}
                if not bool(squares.isfinite().all()):
                    row |= {"squares": None, "status": "model_nonfinite", "reason": "a derivative is not finite"}
                rows.append(row)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def chosen_positions(length: int, count: int) -> list[int]:
    """At most `count` tokens of a prompt at equal steps, the last one among them and the first not."""
    return np.unique(np.linspace(length - 1, 1, count).round().astype(int)).tolist()


def map_of(row: Mapping[str, Any]) -> InfluenceMap:
    """The map of a row of status ok."""
    positions = np.array(row["positions"])
    return InfluenceMap(positions, np.array(row["squares"]).reshape(len(positions), -1), row["group"])
