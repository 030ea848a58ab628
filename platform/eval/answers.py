"""The worker that answers: one model, batches of prompts under given edits, one row for every item.

Promises: a row depends on its item and on the batch it was planned into, on nothing else; whatever goes wrong with
one item becomes that item's status, and its neighbours are answered. When a whole batch fails, its items are tried
one by one to find the culprit. What is wrong with all items alike (an edit that fits no site, a lost model file, too
little memory) is an error of the run.

An item carries its tokens and its condition's name; the conditions themselves are the worker's, built from JSON. It may
carry the tokens of its answer and of distractors too (`choices`), whose likelihoods are taken from the same reading of
its prompt (`likelihoods`).
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ..core.errors import InputError, UsageError
from ..models import Generation, generate
from ..models.lending import open_model
from ..scoring.metrics import score
from ..steering import Layout
from .conditions import Condition
from .likelihoods import ChoiceScores, asks, columns_of
from .schema import ITEM_SCHEMA

if TYPE_CHECKING:
    from ..models import LanguageModel

Item = dict[str, Any]
#: what was generated and the columns of likelihoods, or what went wrong with the item
Answered = tuple[Generation, dict[str, Any]]
#: item fields that are columns of its row as they are
CARRIED = (
    "question_id", "dataset", "category", "level", "split", "model", "variant", "metric", "answers", "gold",
    "n_cut_tokens",
)  # fmt: skip
#: the same, null where the item does not have them
CARRIED_IF_KNOWN = (
    "control", "derived_from", "group", "distance_target", "distance_tokens", "prompt_digest", "ids_digest",
    "evidence_kept",
)  # fmt: skip


def make_worker(
    model: str,
    model_digest: str,
    conditions: list[dict[str, Any]],
    max_new_tokens: int,
    stop: list[str],
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> AnswerWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    opened = open_model(model, model_digest, device, dtype, tokenizer)
    return AnswerWorker(opened, [Condition.from_dict(c) for c in conditions], max_new_tokens, stop)


class AnswerWorker:
    """Answers items with one model."""

    def __init__(self, model: LanguageModel, conditions: list[Condition], max_new_tokens: int, stop: list[str]) -> None:
        self._model, self._max_new_tokens, self._stop = model, max_new_tokens, stop
        self._conditions = {condition.name: condition for condition in conditions}
        for condition in conditions:
            if condition.recipe is not None:
                condition.recipe.check(model)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order. Items of one condition stand together and form a batch."""
        rows: list[dict[str, Any]] = []
        for name, group in groupby(payload["items"], key=lambda item: item["condition"]):
            rows += self._rows(self._conditions[name], list(group))
        return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)

    def _rows(self, condition: Condition, items: list[Item]) -> list[dict[str, Any]]:
        answers = self._answers(condition, items)
        return [
            {key: item[key] for key in CARRIED}
            | {key: item.get(key) for key in CARRIED_IF_KNOWN}
            | condition.fields()
            | {"n_prompt_tokens": len(item["tokens"])}
            | judged_row(answer, item)
            for item, answer in zip(items, answers, strict=True)
        ]

    def _answers(self, condition: Condition, items: list[Item]) -> list[Answered | Exception]:
        try:
            return list(self._generate(condition, items))
        except (UsageError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._answers(condition, [item])[0] for item in items]

    def _generate(self, condition: Condition, items: list[Item]) -> list[Answered]:
        edits = [] if condition.recipe is None else condition.recipe.edits(self._model, [layout_of(i) for i in items])
        with condition.model_of(self._model), self._model.edit(*edits) if edits else nullcontext():
            prompts = [item["tokens"] for item in items]
            scores = ChoiceScores(self._model, items) if asks(items) else None
            said = generate(
                self._model, prompts, max_new_tokens=self._max_new_tokens, stop=self._stop, on_read=scores
            )  # fmt: skip
        return list(zip(said, scores.columns() if scores else map(columns_of, items), strict=True))


def layout_of(item: Item) -> Layout:
    """Where the parts of an item's prompt lie among its tokens."""
    evidence, question = (tuple((a, b) for a, b in item.get(key, ())) for key in ("evidence_at", "question_at"))
    return Layout(len(item["tokens"]), evidence, question)


def judged_row(answer: Answered | Exception, item: Item) -> dict[str, Any]:
    """The columns that say what came out for `item`."""
    said, likely = (answer, None) if isinstance(answer, Exception) else answer
    row = judge(said, item["metric"], json.loads(item["gold"]), item.get("no_answer", ""))
    return row | (columns_of(item, problem=row["status"]) if likely is None else likely)


def judge(answer: Generation | Exception, metric: str, gold: Any, no_answer: str = "") -> dict[str, Any]:
    """The columns that say what came out: prediction, scores, status. Whatever is not known is null.

    no_answer: what the prompt asks for where there is no answer; who writes it is scored as writing nothing.
    """
    row: dict[str, Any] = dict.fromkeys(("prediction", "em", "f1", "stop_reason", "n_new_tokens", "reason"))
    if isinstance(answer, InputError):
        return row | {"status": "bad_input", "reason": str(answer)}
    if isinstance(answer, Exception):
        return row | {"status": "scorer_error", "reason": f"the model raised {type(answer).__name__}: {answer}"}
    if answer.stop_reason == "nonfinite":
        reason = f"the model's scores were not finite after {len(answer.tokens)} new tokens"
        return row | {"status": "model_nonfinite", "reason": reason}
    row |= {
        "prediction": answer.text.strip(),
        "stop_reason": answer.stop_reason,
        "n_new_tokens": len(answer.tokens),
    }
    try:
        said = row["prediction"].rstrip(".")
        declines = bool(no_answer) and said.casefold() == no_answer.casefold()
        scored = score(metric, "" if declines else row["prediction"], gold)
    except Exception as error:  # one question that cannot be scored is one row, not the end of the run
        return row | {"status": "scorer_error", "reason": f"{type(error).__name__}: {error}"}
    return row | {"status": "ok", "em": scored.em, "f1": scored.f1}
