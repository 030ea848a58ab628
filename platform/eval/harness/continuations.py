"""How likely texts are: of continuations after their prompts, and of windows of a text. Token ids in, nats out.

A continuation is scored as it would be generated: its prompt is read in the phase "prefill", its own tokens are fed in
the phase "decode", and negative positions of edits count from the end of the prompt. So what a recipe does to a
likelihood is what it does to an answer. A window is a text that is read: all of it is "prefill".

A prompt that several continuations follow, as the choices of a question do, is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...core.errors import InputError
from ...models.access.coverage import generating
from ...models.decoding.prefill import pad, read_beginnings, read_rest
from ..continuing import Ids, Likelihood, continued, fitting, of_targets, slices
from .shared_reading import batches

if TYPE_CHECKING:
    from ...models import LanguageModel

Steered = Callable[[Sequence[int]], AbstractContextManager[None]]


class Request(NamedTuple):
    """A continuation and the prompt before it, each of at least one token."""

    prompt: Ids
    continuation: Ids


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
            wanted = [(row, requests[i].continuation) for row, i in rows]
            likely = continued(model, scores, state, wanted, batch_size)
        found |= {i: of for (_, i), of in zip(rows, likely, strict=True)}
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
    for at in slices(len(order), fitting(model, longest, batch_size)):
        chosen = order[at]
        inputs = [(*windows[i].prompt, *windows[i].continuation[:-1]) for i in chosen]
        tokens, mask = pad(inputs)
        logits = model(tokens.to(model.device), mask.to(model.device), phase="prefill")
        for row, i in enumerate(chosen):
            start, stop = len(windows[i].prompt) - 1, len(inputs[row])
            totals[i] = of_targets(logits[row : row + 1, start:stop], [windows[i].continuation])[0].total
    _check_finite(totals)
    return totals


def _check_finite(totals: Sequence[float]) -> None:
    bad = [i for i, total in enumerate(totals) if not abs(total) < float("inf")]
    if bad:
        raise InputError(
            f"the model's scores are not finite for request {bad[0]} (and {len(bad) - 1} more), so it has no "
            "likelihood; try a milder recipe, or float32"
        )
