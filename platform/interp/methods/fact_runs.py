"""What steps over factual prompts have in common: the clean run of a prompt, its corruption, and rows that say why.

Every prompt is taken by itself, with the same arguments wherever and beside whatever others it is done, so that its
rows depend on nothing else. What goes wrong with one becomes a row with a status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...core.errors import InputError, UsageError
from ..engine.columns import column
from ..engine.statuses import GOOD, MODEL_WRONG, NOT_APPLICABLE
from .corruption import prompt_seed
from .recurrences import scans_of
from .table import token_labels

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.batches import Batch
    from ..engine.step import Job
    from .prompts import FactItem

Row = Mapping[str, Any]
NO_SCAN = "the block has no selective scan of its own states"


def fact_schema(*own: pa.Field, more: str = "") -> pa.Schema:
    """The columns of a step's rows: the prompt, its own, and the status. more: further statuses and their meaning."""
    status = "ok; model_nonfinite; bad_input: a setting does not suit the prompt; worker_lost; why it was not used"
    return pa.schema([
        column("id", pa.string(), "of the prompt"),
        *own,
        column("status", pa.string(), f"{status}{more}"),
        column("reason", pa.string(), "the status in words; null where it is ok"),
    ])  # fmt: skip


def rows_of_each(batch: Batch, schema: pa.Schema, rows_of: Callable[[FactItem], Iterable[Row]]) -> pa.Table:
    """The rows of a batch's prompts. `rows_of` gives those of one; its errors become a row of that prompt."""
    rows: list[Row] = []
    for item in batch.items:
        try:
            rows += [{"id": item.id, "status": GOOD, **row} for row in rows_of(item)]
        except InputError as error:  # tokens were checked before: nothing but scores that are not finite is left
            rows.append({"id": item.id, "status": "model_nonfinite", "reason": str(error)})
        except UsageError as error:  # of this prompt; settings that suit no prompt are refused before anything runs
            rows.append({"id": item.id, "status": "bad_input", "reason": str(error)})
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def completed(rows: pa.Table, job: Job, absent: Mapping[int, str] | None = None, block: str = "layer") -> pa.Table:
    """The rows in the order of the prompts, then a row for each prompt that was not used, and for each block in
    `absent`, in the column `block`, with the reason why nothing can be said of it."""
    order = {item.id: number for number, item in enumerate(job.items)}
    numbers = [order[id_] for id_ in rows["id"].to_pylist()]
    rows = rows.take(pa.array(sorted(range(len(numbers)), key=numbers.__getitem__), pa.int64()))  # stable
    more: list[dict[str, Any]] = [{"id": e.id, "status": e.status, "reason": e.reason} for e in job.excluded]
    more += [{block: i, "status": NOT_APPLICABLE, "reason": reason} for i, reason in (absent or {}).items()]
    return pa.concat_tables([rows, pa.Table.from_pylist(more, schema=rows.schema)]).combine_chunks()


def without_scan(job: Job) -> dict[int, str]:
    """The blocks of a job that have no selective scan of their own states, with the reason in words."""
    return {layer: NO_SCAN for layer in job.layers if not scans_of(job.model, layer)}


@torch.no_grad()
def clean_run(model: LanguageModel, item: FactItem, *, judged: str, correct_only: bool) -> dict[str, Any]:
    """What the model says to a prompt: answer (the token that is judged, the "target" or the "predicted"),
    answer_token, predicted, predicted_token, correct, status; with a reason where it is not to be traced: its scores
    are not finite, or the answer is another one and `correct_only`."""
    logits = model(torch.tensor(item.tokens)[None].to(model.device))[0, -1]
    if not bool(torch.isfinite(logits).all()):
        return {"status": "model_nonfinite", "reason": "the clean run's logits are not finite"}
    predicted = int(logits.argmax())
    target = predicted if item.answer is None else item.answer
    answer = target if judged == "target" else predicted
    said, expected, of_answer = token_labels(model, [predicted, target, answer])
    row = {"answer": answer, "answer_token": of_answer, "predicted": predicted, "predicted_token": said,
           "correct": None if item.answer is None else predicted == target, "status": GOOD}  # fmt: skip
    if correct_only and row["correct"] is False:
        row |= {"p_clean": float(torch.softmax(logits.double(), -1)[answer]), "status": MODEL_WRONG,
                "reason": f"the model says {said!r}, not {expected!r}"}  # fmt: skip
    return row


def corruption_of(item: FactItem, *, seed: int, noise: float | None) -> dict[str, Any]:
    """How a prompt is corrupted, as arguments of the methods. seed: of the run; each prompt draws its own noise."""
    how: dict[str, Any] = {"subject": item.subject, "seed": prompt_seed(seed, item.id), "noise": noise}
    if item.corrupted is not None:
        how |= {"corrupted": torch.tensor(item.corrupted), "noise": None}
    return how
