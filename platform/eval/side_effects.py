"""The price of steering: how much worse the model predicts ordinary held-out text while it is steered.

The text is fixed: questions of the facts world with names and sentence shapes that no training text has, each
followed by its answer, drawn from a seed of their own. Measured is the mean negative log-likelihood of a token (nats)
of each text under every condition of the test; the unit of comparison is the text. An edit that raises accuracy by
breaking everything else shows here.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
import torch.nn.functional as F

from ..models.decoding.prefill import pad
from ..models.lending import open_model
from .conditions import Condition
from .schema import PRICE_SCHEMA

if TYPE_CHECKING:
    from ..models import LanguageModel

TEXT_SEED = 7919  # far from the seeds that people choose for their questions


class Text(NamedTuple):
    """A held-out text."""

    id: str
    text: str


def held_out_texts(per_level: int) -> list[Text]:
    """The fixed texts: `per_level` of each level."""
    from ..datasets import facts

    questions = facts.prompts(per_level=per_level, seed=TEXT_SEED, split="eval")
    return [Text(f"text-{q.id}", f"{q.prompt} {q.answers[0]}\n") for q in questions]


@torch.no_grad()
def mean_token_nll(model: LanguageModel, rows: list[list[int]]) -> list[float]:
    """Mean negative log-likelihood (nats) of the tokens after the first, for each row of ids (each of at least two)."""
    tokens, mask = pad(rows)
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    logits = model(tokens, mask)
    # row by row, because a float64 copy of all logits of a large vocabulary would not fit
    return [
        F.cross_entropy(logits[i, : len(row) - 1].double(), tokens[i, 1 : len(row)]).item()
        for i, row in enumerate(rows)
    ]


def make_worker(
    model: str,
    model_digest: str,
    conditions: list[dict[str, Any]],
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> PriceWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    opened = open_model(model, model_digest, dtype=dtype, tokenizer=tokenizer)
    return PriceWorker(opened, [Condition.from_dict(c) for c in conditions])


class PriceWorker:
    """Reads texts under conditions. Items: text_id, tokens, condition, model, variant."""

    def __init__(self, model: LanguageModel, conditions: list[Condition]) -> None:
        self._model = model
        self._conditions = {condition.name: condition for condition in conditions}

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        rows: list[dict[str, Any]] = []
        for name, group in groupby(payload["items"], key=lambda item: item["condition"]):
            items, condition = list(group), self._conditions[name]
            steered = nullcontext() if condition.recipe is None else self._model.edit(*condition.recipe.edits())
            with steered:
                values = mean_token_nll(self._model, [item["tokens"] for item in items])
            rows += [self._row(item, condition, value) for item, value in zip(items, values, strict=True)]
        return pa.Table.from_pylist(rows, schema=PRICE_SCHEMA)

    def _row(self, item: dict[str, Any], condition: Condition, nll: float) -> dict[str, Any]:
        finite = nll - nll == 0
        return {key: item[key] for key in ("text_id", "model", "variant")} | condition.fields() | {
            "n_tokens": len(item["tokens"]) - 1,
            "nll": nll if finite else None,
            "status": "ok" if finite else "model_nonfinite",
            "reason": None if finite else "the negative log-likelihood was not finite",
        }  # fmt: skip
