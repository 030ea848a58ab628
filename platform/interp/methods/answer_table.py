"""What a model makes of the right answers, question by question: the batch function of steps that compare models.

Teacher-forced: see `engine.answers`. The bytes of state are those that a sequence leaves behind for its continuation
after prompt and answer: the same for all where the state has a fixed size, and growing with the tokens where earlier
ones are kept (attention, long convolutions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...models.parts.past import PAST
from ..engine.answers import score_answers
from ..engine.columns import column

if TYPE_CHECKING:
    from ...models import LanguageModel, ModelState
    from ..engine.batches import Batch

ANSWER_SCHEMA = pa.schema([
    column("question_id", pa.string(), "the question"),
    column("logprob", pa.float64(), "of the whole answer, nats"),
    column("tokens", pa.int32(), "of the answer"),
    column("correct", pa.bool_(), "whether each of its tokens is the most probable one"),
    column("state_bytes", pa.float64(), "of what the sequence leaves behind"),
    column("status", pa.string(), "ok; model_nonfinite"),
])  # fmt: skip


@torch.no_grad()
def batch_answer_table(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """One row a question of the batch."""
    answered = batch.answered()
    logits, state = model(answered.tokens, answered.mask, return_state=True)
    scores = score_answers(logits.double(), answered)
    lengths = [len(item.prompt) + len(item.answer) - 1 for item in batch.items]
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(batch.items):
        row: dict[str, Any] = {"question_id": item.id, "tokens": len(item.answer)}
        if bool(scores.finite[number]):
            row |= {"logprob": float(scores.logprob[number]), "correct": bool(scores.correct[number]),
                    "state_bytes": _bytes_of_row(state, lengths[number]), "status": "ok"}  # fmt: skip
        else:
            row["status"] = "model_nonfinite"
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def _bytes_of_row(state: ModelState, length: int) -> float:
    """Bytes of one row of `length` tokens; a record of earlier tokens is as wide as the longest row needs."""
    total = 0.0
    for layer in state.layers:
        for name, value in layer.items():
            width = value.shape[-1] if name.startswith(PAST) else 0
            share = min(length, width) / width if width else 1.0
            total += share * value.numel() * value.element_size() / len(value)
    return total
