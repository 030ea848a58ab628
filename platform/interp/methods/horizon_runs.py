"""Horizons of the prompts of one batch: of decays, of hidden attention, of gradients, and of replaced contexts.

Each row is one prompt seen in one way (`view`), in the model as it is (recurrence "on") or with its recurrences cut
("off"); a block where the view has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.statuses import NOT_APPLICABLE
from .hidden_attention import last_row
from .horizons import Horizon, loss_horizon, profile_horizon, tried_distances
from .recurrence_cut import conv_reach, cut_recurrences
from .recurrences import LayerRecurrence, Scan, scans_of
from .replaced_context import divergences, drawn_tokens, special_tokens
from .site_gradients import gradient_sizes
from .typed_tensors import floats

if TYPE_CHECKING:
    from ...models import LanguageModel

#: how a horizon is seen
DECAY, ATTENTION, GRADIENT, BEHAVIOUR = VIEWS = ("decay", "attention", "gradient", "behaviour")
#: whether the recurrences carry anything
ON, OFF = "on", "off"
FLOOR = 1e-8  # nats, that rounding makes of equal distributions in float32
NO_OTHERS = "the other prompts have no token to put in place of this one's"
ONE_TOKEN = "the prompt has one token, and none before it"

SERIES = [
    column("view", pa.string(), "decay: of the state's coordinates; attention: mean distance of hidden attention; "
           "gradient: of the answer's log-probability by what enters the block; behaviour: of the next-token "
           "distribution with the older tokens replaced"),
    column("recurrence", pa.string(), "on: the model as it is; off: its recurrences cut, the control"),
    column("layer", pa.int32(), "block; null for behaviour, which is of the whole model"),
    column("site", pa.string(), "the recurrence of a decay or an attention; what enters the block for gradients"),
]  # fmt: skip
PROMPT_SCHEMA = pa.schema([
    column("question_id", pa.string(), "of the question"),
    *SERIES,
    column("horizon", pa.float64(), "tokens before the last one; means over coordinates or channels for decay and "
           "attention"),
    column("at_least", pa.float64(), "smaller than horizon where not all distances were tried: it lies between them"),
    column("censored", pa.float64(), "share of coordinates or channels, 0 or 1 for gradient and behaviour, whose "
           "horizon meets the prompt's beginning: it may be longer"),
    column("distances", pa.list_(pa.int32()), "tokens before the last one, for gradient and behaviour"),
    column("profile", pa.list_(pa.float64()), "what is left there: |dM/dx| over its maximum; "
           "or nats that are lost when older tokens are replaced"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
])  # fmt: skip

Row = dict[str, Any]


@torch.no_grad()
def batch_attention(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Distances sum_j |alpha_ij| (i - j) / sum_j |alpha_ij| at the last token i, by scan. arguments: `layers`, and
    `theta`: a channel whose weight on the first token is that share of its largest is censored."""
    places = [place for layer in arguments["layers"] for place in scans_of(model, layer)]
    tokens, mask = batch.prompts()
    with model.capture(*dict.fromkeys(name for place in places for name in place.inputs)) as acts:
        model(tokens, mask, last_only=True)
    rows: list[Row] = []
    for place in places:
        scan = place.rebuild(acts)
        rows += [_attention_row(place, scan, i, item, arguments["theta"]) for i, item in enumerate(batch.items)]
    return pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)


def _attention_row(place: LayerRecurrence, scan: Scan, i: int, item: Any, theta: float) -> Row:
    row = _about(item, ATTENTION, ON, place.layer, place.site)
    weights = last_row(scan, i, len(item.prompt)).abs().double()
    if not bool(weights.isfinite().all()):
        return row | {"status": "model_nonfinite", "reason": "a weight is not finite"}
    weights = weights[weights.sum(1) > 0]
    if not len(weights):
        return row | {"status": NOT_APPLICABLE, "reason": "the last token reads nothing through the block"}
    distance = float(attention_distance(weights).mean())
    ended = float((weights[:, 0] >= theta * weights.amax(1)).double().mean())
    return row | {"horizon": distance, "at_least": distance, "censored": ended, "status": "ok"}


def attention_distance(weights: Tensor) -> Tensor:
    """sum_j w_j (T - 1 - j) / sum_j w_j (U,) of weights (U, T) of at least 0, of which none is 0 everywhere."""
    back = torch.arange(weights.shape[1] - 1, -1, -1, dtype=weights.dtype, device=weights.device)
    return (weights * back).sum(1) / weights.sum(1)


def batch_gradients(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Horizons of |dM/dx| with x what enters a block and M the log-probability of the answer's first token, with the
    recurrences on and, where they can be, cut. arguments: `layers`, `theta`."""
    names = {layer: f"blocks.{layer}.resid_pre" for layer in arguments["layers"]}
    (tokens, mask), width = batch.prompts(), model.config.d_model
    answers = torch.tensor([item.answer[0] for item in batch.items], device=tokens.device)
    rows: list[Row] = []
    for recurrence, edits in _models(model):
        sizes = gradient_sizes(model, tokens, mask, answers, dict.fromkeys(names.values(), width), edits)
        for layer, name in names.items():
            for i, item in enumerate(batch.items):
                back = sizes[name][i, : len(item.prompt)].flip(0).cpu().numpy()
                rows.append(_about(item, GRADIENT, recurrence, layer, "resid_pre") | _of_profile(back, arguments))
    return pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)


def _of_profile(back: np.ndarray[Any, np.dtype[np.float64]], arguments: Mapping[str, Any]) -> Row:
    if not np.isfinite(back).all():
        return {"status": "model_nonfinite", "reason": "a gradient is not finite"}
    if len(back) < 2:
        return {"status": NOT_APPLICABLE, "reason": ONE_TOKEN}
    distances = tried_distances(len(back) - 1)
    shown = back[distances] / (back.max() or 1.0)
    return {"distances": distances, "profile": shown.tolist()} | _found(profile_horizon(back, arguments["theta"]))


def batch_replaced(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Horizons of the next-token distribution when all but the last tokens are replaced. arguments: `ids` of the
    prompts to do; `tokens` and `counts` of all prompts; `draws`, `seed`, `theta`, `dense`."""
    special, reach = special_tokens(model), sum(conv_reach(model))
    every = dict(zip(arguments["tokens"], arguments["counts"], strict=True))
    how, wanted = {name: arguments[name] for name in ("draws", "seed")}, set(arguments["ids"])
    rows: list[Row] = []
    for item in (item for item in batch.items if item.id in wanted):
        last = len(item.prompt) - 1
        drawn = drawn_tokens(item.id, item.prompt, every, special, **how) if last else None
        if drawn is None:
            why = {"status": NOT_APPLICABLE, "reason": NO_OTHERS if last else ONE_TOKEN}
            rows += [_about(item, BEHAVIOUR, recurrence, None, None) | why for recurrence, _ in _models(model)]
            continue
        kept = tried_distances(last, last - 1, reach, dense=arguments["dense"])
        for recurrence, edits in _models(model):
            with model.edit(*edits):
                lost = divergences(model, item.prompt, drawn, kept).mean(1)
            row = _about(item, BEHAVIOUR, recurrence, None, None)
            if not bool(lost.isfinite().all()):
                rows.append(row | {"status": "model_nonfinite", "reason": "logits are not finite"})
                continue
            far = loss_horizon(kept, floats(lost), arguments["theta"], FLOOR)
            rows.append(row | {"distances": kept, "profile": floats(lost)} | _found(far))
    return pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)


def _models(model: LanguageModel) -> list[tuple[str, Sequence[Any]]]:
    cut = cut_recurrences(model)
    return [(ON, ())] if cut is None else [(ON, ()), (OFF, cut)]


def _about(item: Any, view: str, recurrence: str, layer: int | None, site: str | None) -> Row:
    return {"question_id": item.id, "view": view, "recurrence": recurrence, "layer": layer, "site": site}


def _found(far: Horizon) -> Row:
    values = {"horizon": far.tokens, "at_least": far.at_least, "censored": far.censored}
    return {name: float(value) for name, value in values.items()} | {"status": "ok"}
