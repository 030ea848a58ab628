"""What a prompt's tokens write into the states of every block, and what later tokens leave of the evidence's writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ..engine.columns import column
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..methods.asked import evaluating
from ..methods.evidence_state import left_by_token, mean_left, write_sizes
from ..methods.recurrences import recurrences_of
from .choosing import Chosen
from .spans import Beside, mean_beside, other_spans

if TYPE_CHECKING:
    from ...models import LanguageModel

NO_STATE = "the block has no recurrent state that decays (attention, or a filter without one)"
NO_DELTA = "the block's states decay alike at every token: it has no Delta"

_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
]
_STATUS = [
    column("status", pa.string(), f"ok; not_applicable: {NO_STATE}"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
]
TOKENS_SCHEMA = pa.schema([
    *_PLACE,
    column("position", pa.int32(), "token of the prompt, from 0; null where there is no state"),
    column("token", pa.string(), "what it says"),
    column("evidence", pa.bool_(), "whether it belongs to the evidence"),
    column("delta", pa.float64(), "mean Delta over channels (heads); null where a block has none"),
    column("write", pa.float64(), "Frobenius norm of what the token writes into the state"),
    *_STATUS,
])  # fmt: skip
LEFT_SCHEMA = pa.schema([
    *_PLACE,
    column("distance", pa.int32(), "tokens after the evidence's last one"),
    column("position", pa.int32(), "the token that distance ends at"),
    column("coordinates", pa.float64(), "what is left of a coordinate, mean over those of the state"),
    column("write", pa.float64(), "share that is left of the norm of what the evidence wrote; null where it wrote 0"),
    *_STATUS,
])  # fmt: skip
STATES_SCHEMA = pa.schema([
    *_PLACE,
    column("delta", pa.float64(), "mean Delta of the evidence's tokens"),
    column("delta_others", pa.float64(), "of all other spans of as many tokens, the mean of theirs"),
    column("write", pa.float64(), "mean size of the writes of the evidence's tokens"),
    column("write_others", pa.float64(), "of all other spans of as many tokens, the mean of theirs"),
    column("write_ratio", pa.float64(), "write over write_others; null where that is 0"),
    column("write_above", pa.float64(), "share of these spans that is written more strongly"),
    column("spans", pa.int32(), "these spans"),
    column("left_coordinates", pa.float64(), "what the last token has left of a coordinate, mean over coordinates"),
    column("left_others", pa.float64(), "the same over as many tokens elsewhere in the prompt, median"),
    column("left_write", pa.float64(), "share of the evidence's own write that the last token has left"),
    column("half", pa.int32(), "tokens after the evidence until less than half of its write is left; null: never"),
    *_STATUS,
])  # fmt: skip

Rows = list[dict[str, Any]]


@torch.no_grad()
def state_tables(model: LanguageModel, chosen: Chosen, layers: Sequence[int]) -> dict[str, pa.Table]:
    """The tables tokens, left and states; without evidence the first of them alone."""
    tokens = torch.tensor(chosen.item.prompt, device=model.device)
    decays = {layer: recurrences_of(model, layer) for layer in layers}
    names = [name for its in decays.values() for decay in its for name in decay.inputs]
    values: Mapping[str, Tensor] = {}
    if names:
        with evaluating(model), model.capture(*names) as values:
            model(tokens[None], last_only=True)
    by_token, left, states = Rows(), Rows(), Rows()
    span, length = chosen.span, len(tokens)
    for layer, its in decays.items():
        if not its:
            nothing = {"layer": layer, "status": NOT_APPLICABLE, "reason": NO_STATE}
            by_token.append(nothing)
            left.append(nothing)
            states.append(nothing)
        for decay in its:
            place = {"layer": layer, "site": decay.site, "status": GOOD}
            scan = decay.rebuild(values)
            writes = write_sizes(scan).tolist()
            deltas = None if decay.delta is None else scan.delta[0].double().mean(1).tolist()
            by_token += [
                place | {"position": t, "token": chosen.tokens[t], "write": size,
                         "evidence": span is not None and span[0] <= t < span[1],
                         "delta": None if deltas is None else deltas[t]}
                for t, size in enumerate(writes)
            ]  # fmt: skip
            if span is None:
                continue
            coordinates, own = left_by_token(decay, scan, span)
            kept = None if own is None else own.tolist()
            left += [
                place | {"distance": k, "position": span[1] - 1 + k, "coordinates": value,
                         "write": None if kept is None else kept[k]}
                for k, value in enumerate(coordinates.tolist())
            ]  # fmt: skip
            write = mean_beside(writes, span)
            row = place | {"write": write.value, "write_others": write.mean, "write_above": write.above}
            row |= {"spans": write.n, "write_ratio": write.value / write.mean if write.mean else None}
            if deltas is not None:
                delta = mean_beside(deltas, span)
                row |= {"delta": delta.value, "delta_others": delta.mean}
            distance = length - span[1]
            stops = [stop for _, stop in other_spans(length, span) if stop + distance <= length]
            elsewhere = Beside.of(float(coordinates[-1]), mean_left(decay, scan, stops, distance))
            row |= {"left_coordinates": elsewhere.value, "left_others": elsewhere.median}
            if kept is not None:
                row |= {"left_write": kept[-1], "half": next((k for k, v in enumerate(kept) if v < 0.5), None)}
            states.append(row)
    tables = {"tokens": pa.Table.from_pylist(by_token, schema=TOKENS_SCHEMA)}
    if span is None:
        return tables
    return tables | {
        "left": pa.Table.from_pylist(left, schema=LEFT_SCHEMA),
        "states": pa.Table.from_pylist(states, schema=STATES_SCHEMA),
    }
