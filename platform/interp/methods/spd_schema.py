"""What the tables of the step `spd` hold: schemas with a meaning for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..engine.columns import column
from .model_matrices import Place, stays_whole
from .spd_prompts import USED

if TYPE_CHECKING:
    from ...models import LanguageModel

MODEL, CONTROL = "model", "weights in random order"
NOTHING = "no projection of its mixer sees every token once"

OF = [
    column("of", pa.string(), f"{MODEL}, or {CONTROL}: the control"),
    column("seed", pa.int32(), "number of the run, from 0"),
]
PLACE = [
    column("layer", pa.int32(), "block; null for the embedding"),
    column("matrix", pa.string(), "path of the matrix's layer in the block, or embedding"),
]
STATUS = [
    column("status", pa.string(), f"ok; not_applicable: {NOTHING}; model_nonfinite: on every prompt"),
    column("reason", pa.string(), "in words, where the status is not ok"),
]
MATRICES = pa.schema([
    *OF, *PLACE,
    column("kind", pa.string(), "dense, lookup (embedding) or rows (depthwise convolution: a row is a component)"),
    column("rows", pa.int32(), "outputs of the matrix"),
    column("columns", pa.int32(), "its inputs; taps of a convolution"),
    column("components", pa.int32(), "components it is a sum of"),
    column("alive", pa.int32(), f"components with an importance above {USED} at some token"),
    column("l0", pa.float64(), f"components with an importance above {USED} at a token, mean over tokens"),
    column("importance", pa.float64(), "sum of importances at a token, mean over tokens"),
    column("error", pa.float64(), "faithfulness: |W - U V|^2 / |W|^2; 0 for rows"),
    column("agreement", pa.float64(), "mean over alive components of the largest |cosine| with one of each other "
           "run's, mean over these runs; null for a single run and for rows"),
    column("agreement_random", pa.float64(), "the same with random directions in place of the other run's components"),
    column("divergence", pa.float64(), "of the run: KL in nats a token from the model to it with each component kept "
           "by its importance alone"),
    column("divergence_whole", pa.float64(), "of the run: the same with all components kept, what the sums lack"),
    column("same_token", pa.float64(), "of the run: share of tokens whose most probable successor stays the same"),
    column("n_prompts", pa.int32(), "prompts counted"),
    *STATUS,
])  # fmt: skip
COMPONENTS = pa.schema([
    *PLACE,
    column("component", pa.int32(), "its number in the tensors of run 0; of rows: the channel"),
    column("norm", pa.float64(), "Frobenius norm"),
    column("importance", pa.float64(), "mean over tokens"),
    column("largest", pa.float64(), "largest importance at any token"),
    column("share", pa.float64(), f"share of tokens at which it is above {USED}"),
    column("alive", pa.bool_(), f"whether it is above {USED} anywhere"),
    column("rank", pa.int32(), "by importance in its matrix"),
    column("top_kind", pa.string(), "kind of question in which it is most important"),
    column("top_kind_importance", pa.float64(), "its mean importance there"),
    column("agreement", pa.float64(), "largest |cosine| with a component of another run, mean over the other runs"),
    *STATUS,
])  # fmt: skip
TRAINING = pa.schema([
    *OF,
    column("step", pa.int32(), "of training"),
    column("loss", pa.float64(), "mean of the loss over the steps since the last row"),
])  # fmt: skip
PARAMETERS = pa.schema([
    *PLACE[:1],
    column("parameter", pa.string(), "its name in the block, or embedding"),
    column("shape", pa.string(), "as it is stored"),
    column("decomposed", pa.string(), "into rank-one components, into its rows, or whole"),
    column("reason", pa.string(), "why it stays whole"),
])  # fmt: skip


def parameter_rows(model: LanguageModel, blocks: Sequence[int], places: Sequence[Place]) -> list[dict[str, Any]]:
    """Rows of `PARAMETERS`: what is decomposed, then what stays whole."""
    rows: list[dict[str, Any]] = [
        {"layer": place.layer, "parameter": place.path, "shape": f"{place.rows} x {place.columns}",
         "decomposed": "its rows" if place.acting == "rows" else "rank-one components"}
        for place in places
    ]  # fmt: skip
    return rows + [
        {"layer": one.layer, "parameter": one.parameter, "shape": " x ".join(map(str, one.shape)),
         "decomposed": "whole", "reason": one.reason}
        for one in stays_whole(model, blocks, places)
    ]  # fmt: skip
