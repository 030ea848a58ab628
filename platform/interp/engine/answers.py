"""Teacher-forced answers: how probable the model finds the right answer, and whether it would give it.

The log-probability is the sum over the answer's tokens; the end of the line behind the answer is not counted. An answer
is given when every one of its tokens is the most probable one after the tokens before it, which is what greedy
generation needs to say it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .batches import AnsweredBatch


class AnswerScores(NamedTuple):
    """logprob (B,): natural logarithm, in the logits' dtype, differentiable. correct (B,) bool. finite (B,) bool:
    whether all scores the two are computed from are finite; where it is False they mean nothing."""

    logprob: Tensor
    correct: Tensor
    finite: Tensor


def score_answers(logits: Tensor, batch: AnsweredBatch) -> AnswerScores:
    """Scores of the answers of `batch` under its logits (B, T, V)."""
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    scores = logits[rows, batch.columns]  # (B, A, V): the softmax is taken only where an answer token is predicted
    chosen = torch.log_softmax(scores, -1).gather(-1, batch.targets[..., None])[..., 0]
    logprob = torch.where(batch.counts, chosen, 0.0).sum(1)
    correct = ((scores.argmax(-1) == batch.targets) | ~batch.counts).all(1)
    finite = (torch.isfinite(scores).all(-1) | ~batch.counts).all(1)
    return AnswerScores(logprob, correct, finite)
