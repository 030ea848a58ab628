"""What the tokens of a prompt leave of what was stated in it: one pass over a batch, all recurrences of the model.

Delta depends on the token, so the same coordinate forgets faster in one text than in another. For each recurrence the
pass gives, over its prompts, the moments of Delta, of the horizon at the last token and of whether the prompt ended
before it; for each prompt its mean horizon over the coordinates, and where it states its answer how much the tokens
between the fact and the end leave of it, beside whether the answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.answers import score_answers
from ..engine.batches import Batch, Item
from .decays import horizon, survival
from .moments import Moments, moments_of
from .recurrences import LayerRecurrence, recurrences_of
from .taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

_KEYS = [pa.field("question_id", pa.string()), pa.field("layer", pa.int32()), pa.field("site", pa.string())]
#: rows with a question: a prompt in a recurrence, or in the model where layer is null; rows without: a recurrence
BATCH_SCHEMA = pa.schema([
    *_KEYS,
    pa.field("horizon", pa.float64()), pa.field("censored", pa.float64()),  # mean and share of the coordinates
    pa.field("survival", pa.float64()), pa.field("surviving", pa.float64()),  # null where the answer is not stated
    pa.field("correct", pa.bool_()), pa.field("logprob", pa.float64()), pa.field("status", pa.string()),
    *(pa.field(f"{of}_{name}", kind) for of in ("delta", "horizon", "censored") for name, kind in
      (("n", pa.int64()), ("mean", pa.list_(pa.float64())), ("m2", pa.list_(pa.float64())))),
])  # fmt: skip


@torch.no_grad()
def batch_forgetting(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """arguments: `layers`, and `theta`, the share that must be left for a coordinate to count as surviving."""
    theta = arguments["theta"]
    rows: list[dict[str, Any]] = []
    taps: list[Watch] = []
    for layer in arguments["layers"]:
        for decay in recurrences_of(model, layer):
            if decay.delta is None:
                steady = torch.ones(max(len(item.prompt) for item in batch.items), len(decay.A), dtype=torch.float64)
                rows += _rows(decay, batch.items, [steady[: len(item.prompt)] for item in batch.items], theta)
            else:
                taps.append(_tap(decay, batch.items, theta, rows))
    answered = batch.answered()
    with model.edit(*taps):
        logits = model(answered.tokens, answered.mask)
    scores = score_answers(logits, answered)
    for i, item in enumerate(batch.items):
        outcome: dict[str, Any] = {"status": "model_nonfinite"}
        if bool(scores.finite[i]):
            outcome = {"correct": bool(scores.correct[i]), "logprob": float(scores.logprob[i]), "status": "ok"}
        rows.append({"question_id": item.id} | outcome)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _tap(decay: LayerRecurrence, items: Sequence[Item], theta: float, rows: list[dict[str, Any]]) -> Watch:
    def see(x: Tensor, lengths: Tensor) -> None:
        delta = x.double().cpu()
        rows.extend(_rows(decay, items, [delta[i, : len(item.prompt)] for i, item in enumerate(items)], theta))

    return Watch(decay.name("delta"), see)


def _rows(
    decay: LayerRecurrence, items: Sequence[Item], deltas: Sequence[Tensor], theta: float
) -> list[dict[str, Any]]:
    place = {"layer": decay.layer, "site": decay.site}
    finite = [bool(torch.isfinite(delta).all()) and bool(torch.isfinite(decay.rate).all()) for delta in deltas]
    rows: list[dict[str, Any]] = []
    horizons: list[NDArray[np.float64]] = []
    for item, delta, good in zip(items, deltas, finite, strict=True):
        row = place | {"question_id": item.id}
        if not good:
            rows.append(row | {"status": "model_nonfinite"})
            continue
        far = horizon(decay.rate, delta, theta).flatten().double().numpy()
        horizons.append(far)
        # a horizon of all tokens: the prompt ends before its share is lost
        row |= {"horizon": float(far.mean()), "censored": float((far >= len(delta)).mean()), "status": "ok"}
        if item.fact is not None:
            left = survival(decay.rate, delta[item.fact[1] :])[-1]
            row |= {"survival": float(left.mean()), "surviving": float((left >= theta).double().mean())}
        rows.append(row)
    kept = [delta for delta, good in zip(deltas, finite, strict=True) if good]
    steps = moments_of(torch.cat(kept).numpy() if kept else np.zeros((0, len(decay.A))))
    reach = np.stack(horizons) if kept else np.zeros((0, decay.A.numel()))
    ended = reach >= np.array([len(delta) for delta in kept]).reshape(-1, 1)
    return [
        *rows,
        place | _fields("delta", steps) | _fields("horizon", moments_of(reach))
        | _fields("censored", moments_of(ended.astype(np.float64))),
    ]  # fmt: skip


def _fields(name: str, moments: Moments) -> dict[str, Any]:
    return {f"{name}_n": moments.n, f"{name}_mean": moments.mean, f"{name}_m2": moments.m2}
