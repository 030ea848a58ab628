"""How often a model says exactly the answers, and how likely it finds them. Teacher-forced: where every token of an
answer is the likeliest one behind those before it, greedy generation gives that answer, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .examples import UNJUDGED, Rows

#: (tokens, mask) -> logits (B, T, V)
Forward = Callable[[Tensor, Tensor], Tensor]
_ROWS = 32  # read together


class Scored(NamedTuple):
    """nll: mean negative log-likelihood of an answer's token, nats. exact (B,): whether the whole answer is what greedy
    decoding says. each (B,): negative log-likelihood of each whole answer, nats, float64."""

    nll: float
    exact: Tensor
    each: Tensor

    @property
    def share(self) -> float:
        """Of the answers, those that are exact."""
        return float(self.exact.double().mean())


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the judged tokens."""
    judged = labels != UNJUDGED
    return F.cross_entropy(logits[judged], labels[judged])


def score(forward: Forward, rows: Rows) -> Scored:
    """How `forward`, such as a model, does on `rows`."""
    tokens = 0
    exact: list[Tensor] = []
    each: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(rows.tokens), _ROWS):
            part = rows.some(range(start, min(start + _ROWS, len(rows.tokens))))
            logits, judged = forward(part.tokens, part.mask), part.labels != UNJUDGED
            tokens += int(judged.sum())
            each.append(
                F.cross_entropy(logits.mT, part.labels, ignore_index=UNJUDGED, reduction="none").double().sum(1)
            )
            exact.append(((logits.argmax(-1) == part.labels) | ~judged).all(1))
    losses = torch.cat(each).cpu()
    return Scored(float(losses.sum()) / tokens, torch.cat(exact).cpu(), losses)
