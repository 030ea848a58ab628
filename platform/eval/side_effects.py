"""The worker that measures the price of steering: what an edit does to the prediction of held-out text.

For each text and condition: the mean negative log-likelihood of a token (nats), bits per byte of the text, the
divergence KL(unsteered || steered) of the next-token distributions (nats, mean over tokens), and the share of tokens
at which both find the same one likeliest. The unsteered pass of a batch of texts runs once, whatever the number of
conditions; which texts are read is for `price_texts` to say.

Promises: distributions are compared in float64, a few positions at a time, so that a large vocabulary needs no float64
copy of all logits; a condition that leaves the model as it is has divergence 0 and agreement 1 exactly; scores that
are not finite are a status, never a number. An edit that raises accuracy by breaking everything else shows here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ..models.decoding.prefill import pad
from ..models.lending import open_model
from .conditions import Condition
from .schema import PRICE_SCHEMA

if TYPE_CHECKING:
    from ..models import LanguageModel

_CELLS = 2**22  # numbers of a float64 block, so many positions as fit
_LOGITS = 2**26  # numbers in the logits of one batch
_TEXTS = 8  # of one batch at most
CARRIED = ("text_id", "document", "text_source", "model", "variant", "n_bytes")


class Reading(NamedTuple):
    """One text under one condition, per predicted token but for the last.

    nll: mean negative log-likelihood, nats. kl: mean KL(base || steered), nats. agreement: share of positions with the
    same likeliest token. text_nats: the negative log-likelihoods of the tokens that are text, summed.
    """

    nll: float
    kl: float
    agreement: float
    text_nats: float


def compare(base: Tensor, steered: Tensor, targets: Tensor, is_text: Tensor) -> Reading:
    """What `steered` costs against `base`: logits (T, V) of the same text whose next tokens are `targets` (T,).

    is_text (T,) bool: which targets are text. float64; equal logits give kl 0 and agreement 1 exactly.
    """
    nats = kl = text_nats = 0.0
    same = 0
    step = max(1, _CELLS // base.shape[-1])
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        log_q = torch.log_softmax(steered[rows].double(), -1)
        loss = -log_q.gather(1, targets[rows, None])[:, 0]
        nats += loss.sum().item()
        text_nats += loss[is_text[rows]].sum().item()
        same += int((base[rows].argmax(-1) == steered[rows].argmax(-1)).sum())
        if base is steered:
            continue
        log_p = torch.log_softmax(base[rows].double(), -1)
        p = log_p.exp()
        # a token that the unsteered model rules out has no part, whatever the steered one says
        kl += torch.where(p > 0, p * (log_p - log_q), 0.0).sum().item()
    n = len(targets)
    return Reading(nats / n, kl / n, same / n, text_nats)


@torch.no_grad()
def read_logits(model: LanguageModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits (T - 1, V) that predict the tokens after the first, of each row of at least two ids."""
    tokens, mask = pad(rows)
    logits = model(tokens.to(model.device), mask.to(model.device))
    return [logits[i, : len(row) - 1] for i, row in enumerate(rows)]


def texts_together(lengths: Sequence[int], vocabulary: int) -> int:
    """How many texts are read at once: what a vocabulary and the longest text leave room for."""
    return max(1, min(_TEXTS, _LOGITS // (max(lengths, default=1) * vocabulary)))


def make_worker(
    model: str,
    model_digest: str,
    conditions: list[dict[str, Any]],
    separators: list[int],
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> PriceWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    opened = open_model(model, model_digest, dtype=dtype, tokenizer=tokenizer)
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
            for item, steered in zip(of_condition, self._logits(condition, of_condition, base), strict=True):
                rows.append(self._row(item, condition, base[item["text_id"]], steered))
        return pa.Table.from_pylist(rows, schema=PRICE_SCHEMA)

    def _logits(self, condition: Condition, items: list[dict[str, Any]], base: dict[str, Tensor]) -> list[Tensor]:
        if condition.recipe is None:
            return [base[item["text_id"]] for item in items]
        recipe = condition.recipe.everywhere()  # a text is no prompt
        with self._model.edit(*recipe.edits(self._model)):
            return read_logits(self._model, [item["tokens"] for item in items])

    def _row(self, item: dict[str, Any], condition: Condition, base: Tensor, steered: Tensor) -> dict[str, Any]:
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
            "status": "ok",
        }  # fmt: skip
