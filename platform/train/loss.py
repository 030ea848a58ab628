"""The training loss and its gradient: weighted cross-entropy over one optimizer step.

loss = sum(w * nll) / sum(w), both sums over the whole step, plus what the architecture adds (mean over its rows).
Micro-batches are divided by the step's weight, not their own, so that accumulating over them gives the gradient of one
big batch whatever their weights are. So does training in several processes: each goes through some of the
micro-batches, and the sums over all of them are the step's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .chunked_loss import CHUNK, chunked_loss
from .data import Batch
from .parallel import Parallel
from .precision import Precision

if TYPE_CHECKING:
    from ..models import LanguageModel


class StepLoss(NamedTuple):
    """Loss of a step; `answer_loss` is the plain mean over answer tokens, None where a source marks none."""

    loss: float
    answer_loss: float | None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood (B, T) of targets (B, T) under logits (B, T, V); at least float32."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    flat = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def in_chunks(model: LanguageModel, n_tokens: int, cross_entropy: str = "auto") -> bool:
    """Whether logits of `n_tokens` tokens are made in chunks. auto: where they are more than one chunk.

    Never where edits or captures act, which may want the logits, nor where the head is no plain matrix.
    """
    if cross_entropy == "whole" or model.edits or model.captures or model.head_matrix is None:
        return False
    return cross_entropy == "chunked" or n_tokens * model.config.vocab_size > CHUNK


def weighted_loss(
    model: LanguageModel, tokens: Tensor, weights: Tensor, reset: Tensor | None, cross_entropy: str = "auto"
) -> tuple[Tensor, Tensor]:
    """sum(w * nll), and nll (B, T) without its graph, of tokens (B, T+1): inputs [:, :-1], targets [:, 1:].

    weights (B, T). reset (B, T+1) or None: where documents start.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    reset = None if reset is None else reset[:, :-1]
    if in_chunks(model, targets.numel(), cross_entropy):
        normed, head = model(inputs, reset=reset, unscored=True), model.head_matrix
        assert head is not None
        return chunked_loss(normed, head, targets, weights, CHUNK)
    nll = token_losses(model(inputs, reset=reset), targets)
    return (nll * weights).sum(), nll.detach()


def passes(rows: int, size: int, rank: int = 0, world_size: int = 1) -> list[slice]:
    """The rows of each forward pass that process `rank` makes of a step of `rows`, `size` at a time.

    All processes make as many, because they sum gradients together; a pass that would be one too many is empty.
    """
    starts = range(0, rows, size)
    mine = [slice(start, min(start + size, rows)) for start in starts[rank::world_size]]
    return mine + [slice(0, 0)] * (math.ceil(len(starts) / world_size) - len(mine))


def accumulate_gradients(
    model: LanguageModel,
    batch: Batch,
    micro_batch_size: int,
    precision: Precision,
    cross_entropy: str = "auto",
    parallel: Parallel | None = None,
) -> StepLoss:
    """Add the gradient of the step's loss to the model's `.grad`s and return the loss.

    parallel: of the processes that share the rows of `batch`, which is the same in all of them, as are then the loss
    and, once all have returned, the gradients.
    """
    parallel = parallel or Parallel(model)
    processes = parallel.processes
    if parallel.sharded:  # outside the model's forward pass its head is a share
        cross_entropy = "whole"
    device = next(model.parameters()).device
    total_weight = float(batch.weights.sum(dtype=torch.float64))
    if total_weight <= 0:
        raise InputError(
            "a batch has no token with a weight in the loss; raise data.facts.context_weight or sequence_length"
        )
    loss = answer_loss = 0.0
    mine = passes(len(batch.tokens), micro_batch_size, processes.rank, processes.world_size)
    for number, rows in enumerate(mine, 1):
        empty = rows.start == rows.stop  # then the first row, of which nothing counts
        taken = slice(0, 1) if empty else rows
        tokens, weights, reset, answers = (None if x is None else x[taken].to(device, non_blocking=True) for x in batch)
        assert tokens is not None and weights is not None and reset is not None
        with precision.context():
            part, nll = parallel.forward(weighted_loss, tokens, weights, reset, cross_entropy, last=number == len(mine))
        part = part / total_weight
        auxiliary = model.auxiliary_loss  # of the architecture, such as a router's balance
        if auxiliary is not None:
            part = part + auxiliary * (len(tokens) / len(batch.tokens))
        if empty:
            (part * 0.0).backward()
            continue
        part.backward()
        loss += part.item()
        if answers is not None:
            answer_loss += nll[answers].sum().item()
    loss, answer_loss = processes.sum(loss, answer_loss)
    n_answers = 0 if batch.answers is None else int(batch.answers.sum())
    return StepLoss(loss, answer_loss / n_answers if n_answers else None)
