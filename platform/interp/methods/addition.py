"""Whether questions are addition modulo p, all of it: what Fourier measures take, and the logits over its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ...datasets.modular_addition import HELD_OUT, TRAINED
from ..engine.columns import column

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.batches import Batch, Item

#: why questions are no addition
NO_ADDITION = "the questions are not all sums of two numbers modulo one p, each once, as tokens a b = c"
NO_SIDES = f"the questions do not say which were trained on, by the categories {TRAINED!r} and {HELD_OUT!r}"


class Addition(NamedTuple):
    """places: question id -> (a, b). trained (p, p) bool: pairs that were trained on; None where nobody says."""

    p: int
    places: Mapping[str, tuple[int, int]]
    trained: Tensor | None


def sides_of(items: Sequence[Item]) -> list[bool] | None:
    """Whether each question was trained on, by its category; None where one does not say or all say the same."""
    said = [{TRAINED: True, HELD_OUT: False}.get(item.category or "") for item in items]
    known = [side for side in said if side is not None]
    return known if len(known) == len(said) and len(set(known)) == 2 else None


def addition_of(items: Sequence[Item]) -> Addition | None:
    """The addition that `items` are all equations of, numbers being the tokens of that id; None where they are none."""
    p = math.isqrt(len(items))
    if p * p != len(items) or p < 3 or p % 2 == 0:
        return None
    places: dict[str, tuple[int, int]] = {}
    signs: set[int] = set()
    for item in items:
        if len(item.prompt) != 3 or len(item.answer) != 1:
            return None
        a, b, sign = item.prompt
        if max(a, b) >= p or item.answer[0] != (a + b) % p:
            return None
        places[item.id] = (a, b)
        signs.add(sign)
    if len(signs) > 1 or len(set(places.values())) < p * p:
        return None
    sides = sides_of(items)
    trained = None
    if sides is not None:
        trained = torch.zeros(p, p, dtype=torch.bool)
        for item, side in zip(items, sides, strict=True):
            trained[places[item.id]] = side
    return Addition(p, places, trained)


NUMBERS_SCHEMA = pa.schema([
    column("question_id", pa.string(), "the question"),
    column("logits", pa.binary(), "float32, of the numbers 0 to p - 1 after the prompt; null where one is not finite"),
])  # fmt: skip


@torch.no_grad()
def batch_numbers(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Logits of the numbers below `p` after each prompt of the batch."""
    logits = model(*batch.prompts(), last_only=True)[:, 0, : arguments["p"]].float().cpu()
    finite = logits.isfinite().all(1).tolist()
    held = [row.numpy().astype("<f4").tobytes() if good else None for row, good in zip(logits, finite, strict=True)]
    return pa.table({"question_id": [item.id for item in batch.items], "logits": held}, schema=NUMBERS_SCHEMA)


def grid(table: pa.Table, addition: Addition) -> Tensor | None:
    """Logits (p, p, p), float64, over (a, b, c) out of rows of `NUMBERS_SCHEMA`; None where some are not finite."""
    p = addition.p
    logits = torch.empty(p, p, p, dtype=torch.float64)
    for row in table.to_pylist():
        if row["logits"] is None:
            return None
        logits[addition.places[row["question_id"]]] = torch.frombuffer(bytearray(row["logits"]), dtype=torch.float32)
    return logits
