"""How far steering moves what a model says next: likelihood, KL divergence and agreement of next-token distributions.

In float64, a few positions at a time, so that a large vocabulary needs no float64 copy of all logits. Equal logits have
divergence 0 and agreement 1 exactly. Numeric code; what is read, and what the numbers mean for a verdict, is for others
to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..models.decoding.prefill import pad

if TYPE_CHECKING:
    from ..models import LanguageModel

_CELLS = 2**22  # numbers of a float64 block, so many positions as fit
_LOGITS = 2**26  # numbers in the logits of one batch
_TEXTS = 8  # of one batch at most


class Reading(NamedTuple):
    """One text under one condition, per predicted token but for the last.

    nll: mean negative log-likelihood, nats. kl: mean KL(base || steered), nats. agreement: share of positions with the
    same likeliest token. text_nats: the negative log-likelihoods of the tokens that are text, summed.
    """

    nll: float
    kl: float
    agreement: float
    text_nats: float


def compare(base: Tensor, steered: Tensor, targets: Tensor, is_text: Tensor) -> Reading:
    """What `steered` costs against `base`: logits (T, V) of the same text whose next tokens are `targets` (T,).

    is_text (T,) bool: which targets are text.
    """
    nats = kl = text_nats = 0.0
    same = 0
    for rows in _blocks(base):
        log_q = torch.log_softmax(steered[rows].double(), -1)
        loss = -log_q.gather(1, targets[rows, None])[:, 0]
        nats += loss.sum().item()
        text_nats += loss[is_text[rows]].sum().item()
        same += int((base[rows].argmax(-1) == steered[rows].argmax(-1)).sum())
        if base is not steered:
            kl += _divergence(base[rows], log_q).sum().item()
    n = len(targets)
    return Reading(nats / n, kl / n, same / n, text_nats)


def token_divergence(base: Tensor, steered: Tensor) -> Tensor:
    """KL(base || steered) (T,) in nats of the distributions that logits (T, V) stand for; float64."""
    parts = [_divergence(base[rows], torch.log_softmax(steered[rows].double(), -1)) for rows in _blocks(base)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _divergence(base: Tensor, log_q: Tensor) -> Tensor:
    log_p = torch.log_softmax(base.double(), -1)
    p = log_p.exp()
    # a token that the base rules out has no part, whatever the other says
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def _blocks(logits: Tensor) -> list[slice]:
    step = max(1, _CELLS // logits.shape[-1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


@torch.no_grad()
def read_logits(model: LanguageModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits (T - 1, V) that predict the tokens after the first, of each row of at least two ids."""
    tokens, mask = pad(rows)
    logits = model(tokens.to(model.device), mask.to(model.device))
    return [logits[i, : len(row) - 1] for i, row in enumerate(rows)]


def texts_together(lengths: Sequence[int], vocabulary: int) -> int:
    """How many texts are read at once: what a vocabulary and the longest text leave room for."""
    return max(1, min(_TEXTS, _LOGITS // (max(lengths, default=1) * vocabulary)))
