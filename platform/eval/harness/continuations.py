"""How likely texts are: of continuations after their prompts, and of windows of a text. Token ids in, nats out.

A continuation is scored as it would be generated: its prompt is read in the phase "prefill", its own tokens are fed in
the phase "decode", and negative positions of edits count from the end of the prompt. So what a recipe does to a
likelihood is what it does to an answer. A window is a text that is read: all of it is "prefill".

A prompt that several continuations follow, as the choices of a question do, is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError
from ...models.access.coverage import generating
from ...models.decoding.prefill import pad, read_beginnings, read_rest
from .shared_reading import batches

if TYPE_CHECKING:
    from ...models import LanguageModel, ModelState

MOST_SCORES = 1 << 27  # scores (rows x tokens x vocabulary) held at once, half a gigabyte in float32

Ids = tuple[int, ...]
Steered = Callable[[Sequence[int]], AbstractContextManager[None]]


class Request(NamedTuple):
    """A continuation and the prompt before it, each of at least one token."""

    prompt: Ids
    continuation: Ids


class Likelihood(NamedTuple):
    """total: log-likelihood of the continuation in nats. greedy: whether each of its tokens is the most probable."""

    total: float
    greedy: bool


@torch.no_grad()
def likelihoods(
    model: LanguageModel, requests: Sequence[Request], batch_size: int, steered: Steered | None = None
) -> list[Likelihood]:
    """The likelihood of each continuation. steered: what acts on prompts of given lengths, where that differs from
    batch to batch. Raises InputError where the model's scores are not finite."""
    after: dict[Ids, list[int]] = {}
    for i, request in enumerate(requests):
        after.setdefault(request.prompt, []).append(i)
    prompts = list(after)
    found: dict[int, Likelihood] = {}
    for batch in batches(model, prompts, batch_size, ahead=steered is None):
        rows = [(row, i) for row, prompt in enumerate(batch.rows) for i in after[prompts[prompt]]]
        before = 0 if batch.state is None else int(batch.state.position)
        lengths = [len(rest) for rest in batch.rest]
        new = max(len(requests[i].continuation) for _, i in rows)
        acting = nullcontext() if steered is None else steered(lengths)
        with acting, generating(model, [before] * len(lengths), lengths, new):
            scores, state = read_rest(model, *read_beginnings(model, batch.rest, batch.state))
            tails = _tails(model, state, [(row, requests[i].continuation) for row, i in rows], batch_size)
        chosen = torch.tensor([row for row, _ in rows], device=scores.device)
        first = _of_targets(scores[chosen, None], [requests[i].continuation[:1] for _, i in rows])
        for (_, i), begun, following in zip(rows, first, tails, strict=True):
            found[i] = Likelihood(begun.total + following.total, begun.greedy and following.greedy)
    _check_finite([found[i].total for i in range(len(requests))])
    return [found[i] for i in range(len(requests))]


@torch.no_grad()
def window_likelihoods(model: LanguageModel, windows: Sequence[Request], batch_size: int) -> list[float]:
    """The log-likelihood of each window's continuation, where all of the window is read as one text.

    Raises InputError where the model's scores are not finite.
    """
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].prompt + windows[i].continuation))
    totals = [0.0] * len(windows)
    longest = max((len(w.prompt + w.continuation) for w in windows), default=1)
    for at in _slices(len(order), _fitting(model, longest, batch_size)):
        chosen = order[at]
        inputs = [(*windows[i].prompt, *windows[i].continuation[:-1]) for i in chosen]
        tokens, mask = pad(inputs)
        logits = model(tokens.to(model.device), mask.to(model.device), phase="prefill")
        for row, i in enumerate(chosen):
            start, stop = len(windows[i].prompt) - 1, len(inputs[row])
            totals[i] = _of_targets(logits[row : row + 1, start:stop], [windows[i].continuation])[0].total
    _check_finite(totals)
    return totals


def _tails(
    model: LanguageModel, state: ModelState, rows: Sequence[tuple[int, Ids]], batch_size: int
) -> list[Likelihood]:
    """Of all tokens but the first of each continuation, which follows that row of `state`."""
    found = [Likelihood(0.0, True)] * len(rows)
    longer = sorted((j for j in range(len(rows)) if len(rows[j][1]) > 1), key=lambda j: -len(rows[j][1]))
    longest = max((len(rows[j][1]) for j in longer), default=1)
    for at in _slices(len(longer), _fitting(model, longest, batch_size)):
        chosen = longer[at]
        tokens, mask = pad([rows[j][1][:-1] for j in chosen])
        index = [rows[j][0] for j in chosen]
        before = state.rows(index)
        logits = model(
            tokens.to(model.device), mask.to(model.device), state=before, phase="decode", anchor=before.position,
            rows=index,
        )  # fmt: skip
        for j, likelihood in zip(chosen, _of_targets(logits, [rows[j][1][1:] for j in chosen]), strict=True):
            found[j] = likelihood
    return found


def _of_targets(logits: Tensor, targets: Sequence[Ids]) -> list[Likelihood]:
    """The first tokens of each row of `logits` (B, T, V) predict the row's targets."""
    found: list[Likelihood] = []
    for row, ids in zip(logits, targets, strict=True):
        scores, wanted = row[: len(ids)], torch.tensor(ids, device=row.device)
        each = scores.gather(1, wanted[:, None])[:, 0] - scores.logsumexp(-1)
        found.append(Likelihood(float(each.double().sum()), bool((scores.argmax(-1) == wanted).all())))
    return found


def _fitting(model: LanguageModel, tokens: int, batch_size: int) -> int:
    return max(1, min(batch_size, MOST_SCORES // (tokens * model.config.vocab_size)))


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(at, at + size) for at in range(0, n, size))


def _check_finite(totals: Sequence[float]) -> None:
    bad = [i for i, total in enumerate(totals) if not abs(total) < float("inf")]
    if bad:
        raise InputError(
            f"the model's scores are not finite for request {bad[0]} (and {len(bad) - 1} more), so it has no "
            "likelihood; try a milder recipe, or float32"
        )
