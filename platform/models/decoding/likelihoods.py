"""Log-likelihoods of whole documents. Pure numeric code.

Every token of a document is predicted, the first from a token that begins texts, and the log-likelihood of a document
is the sum over its tokens, in nats. There are two ways to give a document longer than a window to a model:

- `carried`: the state goes on from one window to the next, so that every token is predicted from all that precedes it.
  It equals one forward pass over the document, up to rounding, and the length of the windows does not matter.
- `harness`: the rolling windows of lm-evaluation-harness. Windows do not share a state: each predicts `window` tokens
  after one token of context, the last window also sees the tokens before its own, as many as fit. Models that carry
  no state can be compared this way; the numbers depend on the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .prefill import pad

if TYPE_CHECKING:
    from ..model import LanguageModel

Method = Literal["carried", "harness"]
WINDOWS: dict[str, int] = {"carried": 512, "harness": 2048}  # tokens; the harness's own default where a model has none


class Window(NamedTuple):
    """What the model reads at once, and how many of the last inputs predict a token that counts."""

    inputs: list[int]
    targets: list[int]


def rolling_windows(tokens: Sequence[int], prefix: int, window: int) -> Iterator[Window]:
    """The windows of `harness`: together their targets are `tokens`, each once and in order."""
    for start in range(0, len(tokens), window):
        end = min(start + window, len(tokens))
        targets = list(tokens[start:end])
        # the last window is filled up with earlier tokens; the first has only the prefix before it
        first = max(0, end - window) if start else 0
        before = [prefix] if first == 0 else [tokens[first - 1]]
        yield Window([*before, *tokens[first : end - 1]], targets)


@torch.no_grad()
def log_likelihoods(
    model: LanguageModel, documents: Sequence[Sequence[int]], prefix: int, *, method: Method, window: int
) -> list[float]:
    """The log-likelihood (nats) of each document, a list of at least one token; not finite where the model is not."""
    if method == "carried":
        return _carried(model, documents, prefix, window)
    owners: list[int] = []
    windows: list[Window] = []
    for number, tokens in enumerate(documents):
        for found in rolling_windows(tokens, prefix, window):
            owners.append(number)
            windows.append(found)
    sums = [0.0] * len(documents)
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].inputs))
    together = max(1, len(documents) * WINDOWS["carried"] // window)  # as many tokens at once as `carried` reads
    for at in range(0, len(order), together):
        chosen = order[at : at + together]
        inputs, mask = pad([windows[i].inputs for i in chosen])
        logits = model(inputs.to(model.device), mask.to(model.device))
        for row, i in enumerate(chosen):
            length = len(windows[i].inputs)
            start = length - len(windows[i].targets)
            sums[owners[i]] += _sum(logits[row, start:length], windows[i].targets)
    return sums


def _carried(model: LanguageModel, documents: Sequence[Sequence[int]], prefix: int, window: int) -> list[float]:
    sums = [0.0] * len(documents)
    order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))  # those that end first are the last rows
    state = None
    for start in range(0, len(documents[order[0]]) if order else 0, window):
        alive = [i for i in order if len(documents[i]) > start]
        targets = [list(documents[i][start : start + window]) for i in alive]
        before = [documents[i][start - 1] if start else prefix for i in alive]
        inputs, mask = pad([[first, *row[:-1]] for first, row in zip(before, targets, strict=True)])
        if state is not None and len(state.position) > len(alive):
            state = state.rows(list(range(len(alive))))
        # "prefill" whatever the width: a window of one token is no decoding
        logits, state = model(
            inputs.to(model.device), mask.to(model.device), state=state, return_state=True, phase="prefill"
        )
        for row, i in enumerate(alive):
            sums[i] += _sum(logits[row, : len(targets[row])], targets[row])
    return sums


def _sum(logits: Tensor, targets: Sequence[int]) -> float:
    """Log-likelihood of `targets` (T) under logits (T, V); summed in float64."""
    expected = torch.tensor(targets, device=logits.device)
    return -F.cross_entropy(logits.double(), expected, reduction="sum").item()
