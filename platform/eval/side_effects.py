"""The worker that measures the price of steering: what an edit does to the prediction of held-out text.

For each text and condition: the mean negative log-likelihood of a token (nats), bits per byte of the text, the
divergence KL(unsteered || steered) of the next-token distributions (nats, mean over tokens), the share of tokens at
which both find the same one likeliest, and the dose, ||edit|| / ||site|| of a token (`steering.dose`). The unsteered
pass of a batch of texts runs once, whatever the number of conditions; which texts are read is for `price_texts` to say.

Promises: distributions are compared in float64 (`steering.divergence`); a condition that leaves the model as it is has
divergence 0 and agreement 1 exactly; scores that are not finite are a status, never a number. An edit that raises
accuracy by breaking everything else shows here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ..models.lending import open_model
from ..steering.divergence import compare, read_logits
from ..steering.dose import EditWatch
from .conditions import Condition
from .schema import PRICE_SCHEMA

if TYPE_CHECKING:
    from ..models import LanguageModel

CARRIED = ("text_id", "document", "text_source", "model", "variant", "n_bytes")


def make_worker(
    model: str,
    model_digest: str,
    conditions: list[dict[str, Any]],
    separators: list[int],
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> PriceWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    opened = open_model(model, model_digest, device, dtype, tokenizer)
    return PriceWorker(opened, [Condition.from_dict(c) for c in conditions], separators)


class PriceWorker:
    """Reads texts under conditions. Items: what is in `CARRIED`, tokens, condition. separators: tokens that stand for
    no text."""

    def __init__(self, model: LanguageModel, conditions: Sequence[Condition], separators: Sequence[int] = ()) -> None:
        self._model = model
        self._conditions = {condition.name: condition for condition in conditions}
        self._separators = torch.tensor(list(separators), dtype=torch.long, device=model.device)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order. Items of one condition stand together; those of a batch are
        the same texts under one condition after the other."""
        items: list[dict[str, Any]] = payload["items"]
        texts: dict[str, list[int]] = {item["text_id"]: item["tokens"] for item in items}
        base = dict(zip(texts, read_logits(self._model, list(texts.values())), strict=True))
        rows: list[dict[str, Any]] = []
        for name, group in groupby(items, key=lambda item: item["condition"]):
            of_condition, condition = list(group), self._conditions[name]
            for item, (steered, norm) in zip(of_condition, self._read(condition, of_condition, base), strict=True):
                rows.append(self._row(item, condition, base[item["text_id"]], steered, norm))
        return pa.Table.from_pylist(rows, schema=PRICE_SCHEMA)

    def _read(
        self, condition: Condition, items: list[dict[str, Any]], base: dict[str, Tensor]
    ) -> list[tuple[Tensor, float | None]]:
        """The logits of each text and the relative change of the sites that are edited."""
        rows = [item["tokens"] for item in items]
        if condition.weights:  # no site is edited, so the change has no size beside one
            with condition.model_of(self._model):
                return [(logits, None) for logits in read_logits(self._model, rows)]
        if condition.recipe is None:
            return [(base[item["text_id"]], 0.0) for item in items]
        watch = EditWatch(self._model, condition.recipe.everywhere().edits(self._model))  # a text is no prompt
        with self._model.edit(*watch.edits):
            logits = read_logits(self._model, rows)
        return list(zip(logits, watch.row_norms([len(row) for row in rows]), strict=True))

    def _row(
        self, item: dict[str, Any], condition: Condition, base: Tensor, steered: Tensor, norm: float | None
    ) -> dict[str, Any]:
        row = {key: item[key] for key in CARRIED} | condition.fields() | {"n_tokens": len(item["tokens"]) - 1}
        targets = torch.tensor(item["tokens"][1:], device=base.device)
        found = compare(base, steered, targets, ~torch.isin(targets, self._separators))
        if not math.isfinite(found.nll):
            return row | {"status": "model_nonfinite", "reason": "the negative log-likelihood was not finite"}
        if not math.isfinite(found.kl):
            reason = "the divergence from the unsteered model was not finite"
            return row | {"status": "model_nonfinite", "reason": reason}
        per_byte = found.text_nats / math.log(2) / item["n_bytes"] if item["n_bytes"] else None
        return row | {
            "nll": found.nll, "bits_per_byte": per_byte, "kl": found.kl, "top1_agreement": found.agreement,
            "edit_norm": norm, "status": "ok",
        }  # fmt: skip
