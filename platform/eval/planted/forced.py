"""Exact match without generation: one forward pass over prompt and answer says whether greedy decoding would give it.

An answer counts where each of its tokens, and the end of the line behind it, is the most probable one after those
before it. That is what greedy generation does, so that the mean is the exact match of generated answers for models that
end a line (questions of the facts world: tests/eval/planted compares the two). Logits that are not finite are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...datasets.records import Question
from ...models import LanguageModel
from ...models.decoding.text import encode_continued

ROWS = 48  # rows of a forward pass: enough to be fast, few enough that questions of like length meet


class ForcedBatch(NamedTuple):
    """tokens, targets (B, T); mask (B, T) bool. targets: the token that must follow, -1 where any may.
    rows: which of the questions these are."""

    rows: tuple[int, ...]
    tokens: Tensor
    mask: Tensor
    targets: Tensor


def forced_batches(model: LanguageModel, questions: Sequence[Question], rows: int = ROWS) -> list[ForcedBatch]:
    """Prompts with their first answers in batches of like length. Raises UsageError for questions without a prompt, an
    answer, or a tokenizer to read them with."""
    if model.tokenizer is None:
        raise UsageError(f"{model.name} has no tokenizer; questions cannot be put to it")
    bare = next((q for q in questions if not q.prompt or not q.answers), None)
    if bare is not None or not questions:
        what = "no questions were given" if bare is None else f"question {bare.id} has no prompt or no answer"
        raise UsageError(f"exact match needs questions with a prompt and an answer each; {what}")
    pairs = [encode_continued(model.tokenizer, q.prompt or "", f" {q.answers[0]}\n") for q in questions]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt) + len(pairs[i].continuation))
    return [_batch([(i, pairs[i].prompt, pairs[i].continuation) for i in order[at : at + rows]])
            for at in range(0, len(order), rows)]  # fmt: skip


def _batch(pairs: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> ForcedBatch:
    width = max(len(prompt) + len(answer) for _, prompt, answer in pairs)
    tokens = torch.zeros(len(pairs), width, dtype=torch.long)
    targets = torch.full((len(pairs), width), -1)
    mask = torch.zeros(len(pairs), width, dtype=torch.bool)
    for row, (_, prompt, answer) in enumerate(pairs):
        whole = [*prompt, *answer]
        tokens[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = True
        targets[row, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)
    return ForcedBatch(tuple(i for i, _, _ in pairs), tokens, mask, targets)


def log_probabilities(logits: Tensor, batch: ForcedBatch) -> Tensor:
    """Natural logarithm of the answer's probability for each row (B,), differentiable."""
    chosen = torch.log_softmax(logits, -1).gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(batch.targets >= 0, chosen, 0.0).sum(1)


@torch.no_grad()
def exact_matches(model: LanguageModel, batches: Sequence[ForcedBatch]) -> Tensor:
    """1.0 or 0.0 for each question (Q,), in their order, under the edits in force."""
    found = torch.zeros(sum(len(b.rows) for b in batches))
    for batch in batches:
        logits = model(batch.tokens, batch.mask)
        asked = batch.targets >= 0
        right = ((logits.argmax(-1) == batch.targets) | ~asked).all(1)
        finite = (torch.isfinite(logits).all(-1) | ~asked).all(1)
        found[list(batch.rows)] = (right & finite).float()
    return found
