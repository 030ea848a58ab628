"""Loss, perplexity and bits per byte of held-out streams of documents.

A stream is read in rows as training reads its own: row i holds tokens [i*T, i*T + T], and the state is reset where a
document starts. Bits per byte counts the text's own bytes and no separators, which makes models with different
tokenizers comparable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .data import Evaluation, TokenizerFacts
from .loss import weighted_loss

if TYPE_CHECKING:
    from ..models import LanguageModel


class HeldOut(NamedTuple):
    """tokens (N,), N > 1: documents one behind the other; n_bytes: of their texts in UTF-8."""

    tokens: NDArray[np.integer]
    n_bytes: int


class _Sums(NamedTuple):
    nats: float
    targets: int
    text_nats: float  # of targets that are no separators
    n_bytes: int

    def metrics(self, part: str = "") -> dict[str, float]:
        loss = self.nats / self.targets
        return {
            f"loss{part}": loss,
            f"perplexity{part}": math.exp(min(loss, 700.0)),  # beyond this a double overflows
            f"bits_per_byte{part}": self.text_nats / math.log(2) / self.n_bytes,
        }


@torch.no_grad()
def evaluate(
    model: LanguageModel, streams: Mapping[str, HeldOut], tokenizer: TokenizerFacts, length: int, rows_at_once: int
) -> Evaluation:
    """The metrics of all streams together, and `bits_per_byte/NAME` and so on of each that has a name; T = `length`."""
    sums = {name: _sums(model, stream, tokenizer, length, rows_at_once) for name, stream in streams.items()}
    metrics = _Sums(*map(sum, zip(*sums.values(), strict=True))).metrics()
    for name, part in sums.items():
        if name:
            metrics |= part.metrics(f"/{name}")
    return Evaluation(metrics, metrics["loss"], higher_is_better=False)


def _sums(model: LanguageModel, held: HeldOut, tokenizer: TokenizerFacts, length: int, rows_at_once: int) -> _Sums:
    stream = torch.from_numpy(held.tokens.astype(np.int64))
    n_targets = len(stream) - 1
    n_rows = -(-n_targets // length)
    padded = torch.full((n_rows * length + 1,), tokenizer.eos_id)
    padded[: len(stream)] = stream
    rows = padded.unfold(0, length + 1, length)
    real = (torch.arange(n_rows * length) < n_targets).view(n_rows, length)
    device = next(model.parameters()).device
    separators = torch.tensor([tokenizer.eos_id, *tokenizer.begin], device=device)
    nats = text_nats = 0.0
    for start in range(0, n_rows, rows_at_once):
        tokens = rows[start : start + rows_at_once].to(device)
        counted = real[start : start + rows_at_once].to(device)
        _, losses = weighted_loss(model, tokens, counted.float(), tokens == tokenizer.start_id)
        nll = losses.double() * counted
        nats += nll.sum().item()
        text_nats += (nll * ~torch.isin(tokens[:, 1:], separators)).sum().item()
    return _Sums(nats, n_targets, text_nats, held.n_bytes)
