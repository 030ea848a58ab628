"""Losses of the next token with sites replaced, batch by batch: by dictionaries' reconstructions, zeros and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ....models.access.edits import Edit, Replace
from ...engine.batches import Batch
from ..typed_tensors import floats, ints, nested
from .dictionary import SparseDictionary
from .splicing import Splice, next_token_loss, packed, recovered, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from ....models import LanguageModel

LOSSES = pa.schema([
    ("question_id", pa.string()), ("number", pa.int32()), ("loss", pa.float64()), ("tokens", pa.int64()),
    ("exact", pa.bool_()),
])  # fmt: skip
CLEAN = -1  # `number` of the model as it is


def spliced(site: str, dictionary: SparseDictionary, *, keep_error: bool = False) -> dict[str, Any]:
    """A replacement, as plain JSON: the reconstruction of a site (full name)."""
    return {"site": site, "dictionary": packed(dictionary), "keep_error": keep_error}


def replaced(site: str, value: Tensor | float, shape: Sequence[int]) -> dict[str, Any]:
    """A replacement: a number, or a tensor of the site's shape of one token."""
    held = nested(value.double().reshape(tuple(shape))) if isinstance(value, torch.Tensor) else value
    return {"site": site, "value": held}


@torch.no_grad()
def batch_losses(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """`LOSSES` of those prompts of a batch that `ids` names, of the model as it is and under each of `replacements`."""
    wanted = set(arguments["ids"])
    items = [item for item in batch.items if item.id in wanted]
    if not items:
        return LOSSES.empty_table()
    answered = Batch(items, batch.device).answered()
    rows: list[dict[str, Any]] = []

    def add(number: int, logits: Tensor, exact: Sequence[bool | None]) -> None:
        sums, counts = next_token_loss(logits, answered.tokens, answered.mask)
        for item, loss, n, same in zip(items, floats(sums), ints(counts), exact, strict=True):
            finite = bool(np.isfinite(loss))
            rows.append({"question_id": item.id, "number": number, "loss": loss if finite else None, "tokens": n,
                         "exact": same})  # fmt: skip

    clean = model(answered.tokens, answered.mask)
    add(CLEAN, clean, [None] * len(items))
    for number, replacement in enumerate(arguments["replacements"]):
        with model.edit(_edit(replacement)):
            logits = model(answered.tokens, answered.mask)
        kept = replacement.get("keep_error", False)
        same = ((logits == clean) | ~answered.mask[..., None]).flatten(1).all(1).tolist()
        add(number, logits, same if kept else [None] * len(items))
    return pa.Table.from_pylist(rows, schema=LOSSES)


def _edit(replacement: Mapping[str, Any]) -> Edit:
    if "value" in replacement:
        return Replace(replacement["site"], torch.as_tensor(replacement["value"], dtype=torch.float64))
    return Splice(replacement["site"], unpacked(replacement["dictionary"]), keep_error=replacement["keep_error"])


class Losses:
    """Mean losses by number of the replacement, over the prompts that are finite under all of them."""

    def __init__(self, table: pa.Table) -> None:
        rows: list[dict[str, Any]] = table.to_pylist()
        bad = {row["question_id"] for row in rows if row["loss"] is None}
        sums: dict[int, tuple[float, int]] = {}
        exact: dict[int, bool] = {}
        for row in rows:
            number = row["number"]
            if row["exact"] is not None:
                exact[number] = exact.get(number, True) and row["exact"]
            if row["question_id"] not in bad:
                loss, tokens = sums.get(number, (0.0, 0))
                sums[number] = loss + row["loss"], tokens + row["tokens"]
        self.exact = exact
        self._means = {number: loss / tokens for number, (loss, tokens) in sums.items() if tokens}

    def mean(self, number: int | None) -> float | None:
        """Mean loss a token, nats; None for a replacement that was not made."""
        return None if number is None else self._means.get(number)

    def about(self, spliced_: int | None, zero: int | None, mean: int | None) -> dict[str, float | None]:
        """The columns `loss_*` and `recovered_*`."""
        clean = self.mean(CLEAN) if spliced_ is not None else None
        found = {"clean": clean, "spliced": self.mean(spliced_), "zero": self.mean(zero), "mean": self.mean(mean)}
        losses: dict[str, float | None] = {f"loss_{name}": value for name, value in found.items()}
        for name in ("zero", "mean"):
            known = (clean, found["spliced"], found[name])
            losses[f"recovered_{name}"] = None if None in known else recovered(*known)  # type: ignore[arg-type]
        return losses
