"""How likely continuations are behind prompts that a model has read. Token ids in, nats out.

A continuation is scored as it would be generated: its tokens are fed in the phase "decode" from the state behind its
prompt, and negative positions of edits count from the end of the prompt. So what a recipe does to a likelihood is what
it does to an answer. Nothing here reads a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..models.decoding.prefill import pad

if TYPE_CHECKING:
    from ..models import LanguageModel, ModelState

MOST_SCORES = 1 << 27  # scores (rows x tokens x vocabulary) held at once, half a gigabyte in float32

Ids = tuple[int, ...]


class Likelihood(NamedTuple):
    """total: log-likelihood of the continuation in nats. greedy: whether each of its tokens is the most probable."""

    total: float
    greedy: bool


@torch.no_grad()
def continued(
    model: LanguageModel,
    scores: Tensor,
    state: ModelState,
    wanted: Sequence[tuple[int, Ids]],
    batch_size: int,
) -> list[Likelihood]:
    """The likelihood of each of `wanted`: a row of the prompts, and the tokens (one at least) that follow it.

    scores (B, V), state (B rows): of the token after each prompt, and what was read. batch_size: continuations that are
    fed together at most. Scores that are not finite give a total that is none.
    """
    rest = _rest(model, state, wanted, batch_size)
    chosen = torch.tensor([row for row, _ in wanted], device=scores.device)
    first = of_targets(scores[chosen, None], [ids[:1] for _, ids in wanted])
    return [
        Likelihood(begun.total + following.total, begun.greedy and following.greedy)
        for begun, following in zip(first, rest, strict=True)
    ]


def _rest(
    model: LanguageModel, state: ModelState, rows: Sequence[tuple[int, Ids]], batch_size: int
) -> list[Likelihood]:
    """Of all tokens but the first of each continuation, which follows that row of `state`."""
    found = [Likelihood(0.0, True)] * len(rows)
    longer = sorted((j for j in range(len(rows)) if len(rows[j][1]) > 1), key=lambda j: -len(rows[j][1]))
    longest = max((len(rows[j][1]) for j in longer), default=1)
    for at in slices(len(longer), fitting(model, longest, batch_size)):
        chosen = longer[at]
        tokens, mask = pad([rows[j][1][:-1] for j in chosen])
        index = [rows[j][0] for j in chosen]
        before = state.rows(index)
        logits = model(
            tokens.to(model.device), mask.to(model.device), state=before, phase="decode", anchor=before.position,
            rows=index,
        )  # fmt: skip
        for j, likelihood in zip(chosen, of_targets(logits, [rows[j][1][1:] for j in chosen]), strict=True):
            found[j] = likelihood
    return found


def of_targets(logits: Tensor, targets: Sequence[Ids]) -> list[Likelihood]:
    """The first tokens of each row of `logits` (B, T, V) predict the row's targets."""
    wanted, counts = (part.to(logits.device) for part in pad(targets))
    scores = logits[:, : wanted.shape[1]]
    each = scores.gather(-1, wanted[..., None])[..., 0] - scores.logsumexp(-1)
    totals = torch.where(counts, each.double(), 0.0).sum(1).tolist()
    greedy = ((scores.argmax(-1) == wanted) | ~counts).all(1).tolist()
    return [Likelihood(total, best) for total, best in zip(totals, greedy, strict=True)]


def first_tokens(scores: Tensor, wanted: Sequence[tuple[int, Ids]]) -> list[float]:
    """Log-likelihood of the first token of each of `wanted`, nats: no continuation is likelier than its beginning."""
    chosen = torch.tensor([row for row, _ in wanted], device=scores.device)
    return [found.total for found in of_targets(scores[chosen, None], [ids[:1] for _, ids in wanted])]


def fitting(model: LanguageModel, tokens: int, batch_size: int) -> int:
    """How many rows of so many tokens, at most `batch_size`, have scores that may be held at once."""
    return max(1, min(batch_size, MOST_SCORES // (tokens * model.config.vocab_size)))


def slices(n: int, size: int) -> Iterator[slice]:
    """0 to n in pieces of at most `size`."""
    return (slice(at, at + size) for at in range(0, n, size))
