"""From how far back the last token's prediction comes, by gradients, as texts grow: the effective receptive field.

For a text of tokens t = 1..T the gradient of the log-probability of the model's own next token by each embedding is
taken, g_t = |d log p / d e_t|, after Luo et al. (arXiv 1701.04128). The mean distance is sum g_t (T - t) / sum g_t; d50
and d90 are the least distances within which half and nine tenths of sum g_t lie. A gradient is local: what saturates
has none, and a large one at a distance need not be of use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...core.errors import InputError, UsageError
from ...steering.detectors import Tap
from ..engine.batches import Batch, Item
from .typed_tensors import lengths

if TYPE_CHECKING:
    from ...models import LanguageModel

MEASURES = ("mean_distance", "d50", "d90", "beyond")
BATCH_SCHEMA = pa.schema(
    [("text", pa.int32()), ("length", pa.int32()), *((name, pa.float64()) for name in MEASURES),
     ("status", pa.string()), ("reason", pa.string())]
)  # fmt: skip


def long_text(items: Sequence[Item], start: int, length: int) -> list[int]:
    """`length` tokens of the prompts one after the other, from number `start` on, around and around."""
    tokens: list[int] = []
    while len(tokens) < length:
        tokens += items[start % len(items)].prompt
        start += 1
    return tokens[:length]


def batch_fields(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The measures of each text of arguments["texts"][item id], {text, tokens}; beyond: share of the gradient that is
    farther back than arguments["base"] tokens."""
    rows: list[dict[str, Any]] = []
    for text in (text for item in batch.items for text in arguments["texts"].get(item.id, ())):
        row = {"text": text["text"], "length": len(text["tokens"])}
        try:
            sizes = gradient_sizes(model, torch.tensor(text["tokens"], device=batch.device))
        except (InputError, UsageError) as error:  # longer than what the model reads
            rows.append(row | {"status": "not_applicable", "reason": str(error)})
            continue
        rows.append(row | field_of(sizes, arguments["base"]))
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


@torch.enable_grad()
def gradient_sizes(model: LanguageModel, tokens: Tensor) -> Tensor:
    """g (T,) of the text tokens (T), float64. Raises InputError or UsageError for a text that the model cannot read."""
    tap = Tap("embed", torch.ones(1, device=model.device, requires_grad=True), [])
    with model.edit(tap):
        logits = model(tokens[None], last_only=True)
    (gradient,) = torch.autograd.grad(logits[0, -1].log_softmax(-1).max(), [tap.seen[0][0]])
    return lengths(gradient[0].double()).cpu()


def field_of(sizes: Tensor, base: int) -> dict[str, Any]:
    """MEASURES of g (T,), with the status: model_nonfinite, or not_applicable where no token has a gradient."""
    g = sizes.flip(0).numpy()  # by distance from the last token
    if not np.isfinite(g).all():
        return {"status": "model_nonfinite", "reason": "a gradient is not finite"}
    if not g.any():
        return {"status": "not_applicable", "reason": "the prediction depends on no token"}
    cumulative = np.cumsum(g) / g.sum()
    within = [int((cumulative < share - 1e-12).sum()) for share in (0.5, 0.9)]
    mean = float((g * np.arange(len(g))).sum() / g.sum())
    return {"mean_distance": mean, "d50": float(within[0]), "d90": float(within[1]),
            "beyond": float(g[base:].sum() / g.sum()), "status": "ok"}  # fmt: skip
