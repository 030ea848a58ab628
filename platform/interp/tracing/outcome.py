"""What a run is asked: the prompt as tokens, the answer, and the number that says how far the model gives it.

The answer is one token, predicted after the last token of the prompt. A metric is a differentiable function of the
logits there; all of them grow with the answer's probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ...errors import UsageError, suggest

if TYPE_CHECKING:
    from ...models import LanguageModel

Metric = Literal["prob", "logprob", "logit"]
METRICS: tuple[str, ...] = get_args(Metric)


def score(logits: Tensor, answer: int, metric: str) -> Tensor:
    """The metric (B,) of the token `answer` under next-token logits (B, V).

    "prob": its probability; "logprob": the natural logarithm of it; "logit": its logit as it is.
    """
    if metric == "prob":
        return torch.softmax(logits, -1)[:, answer]
    if metric == "logprob":
        return torch.log_softmax(logits, -1)[:, answer]
    if metric == "logit":
        return logits[:, answer]
    raise UsageError(f"unknown metric {metric!r}; {suggest(metric, METRICS)}")


def check_metric(metric: str) -> None:
    """Raise UsageError unless `metric` is one of `METRICS`."""
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}; {suggest(metric, METRICS)}")


def prompt_tokens(model: LanguageModel, tokens: Tensor | Sequence[int], name: str) -> Tensor:
    """`tokens` as a 1-D integer tensor on the model's device. Raises UsageError, naming the argument, for others."""
    given = torch.as_tensor(tokens)
    if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool or not len(given):
        raise UsageError(
            f"{name} must be one prompt: a 1-D tensor of at least one token id, not {given.dtype} {tuple(given.shape)}"
        )
    return given.to(device=model.device, dtype=torch.long)


def answer_token(model: LanguageModel, answer: int | str | None, logits: Tensor) -> int:
    """The answer as a token id: a given id; the first token of a text; None: the most probable one of logits (V,).

    Raises UsageError for an id outside the vocabulary and for a text without a tokenizer or without a token.
    """
    if answer is None:
        return int(logits.argmax())
    if isinstance(answer, str):
        if model.tokenizer is None:
            raise UsageError(f"answer {answer!r}: model {model.name} has no tokenizer; give the token's id")
        ids = model.tokenizer.encode(answer, add_special_tokens=False)
        if not ids:
            raise UsageError(f"answer {answer!r} has no token; give its text with the blank before it, or a token id")
        return int(ids[0])
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < model.config.vocab_size:
        raise UsageError(f"answer {answer!r}: a token id from 0 to {model.config.vocab_size - 1}, or a text")
    return answer


def token_texts(model: LanguageModel, tokens: Tensor) -> list[str]:
    """Each token of tokens (T,) as text; its id in figures where the model has no tokenizer."""
    ids = [int(t) for t in tokens]
    if model.tokenizer is None:
        return [str(i) for i in ids]
    return [str(model.tokenizer.decode([i])) for i in ids]


def absolute_positions(positions: int | Sequence[int] | None, width: int, name: str) -> tuple[int, ...]:
    """Positions 0 to width - 1 in the order given, negative ones counted from the end; None is all of them.

    Raises UsageError for one that the prompt does not have, for one named twice, and for none.
    """
    if positions is None:
        return tuple(range(width))
    wanted = [positions] if isinstance(positions, int) else [int(p) for p in positions]
    found = []
    for p in wanted:
        if not -width <= p < width:
            raise UsageError(f"{name}: there is no position {p}; the prompt has {width} tokens, 0 to {width - 1}")
        found.append(p % width)
    if not found or len(set(found)) < len(found):
        raise UsageError(f"{name} {wanted}: name at least one position, and each of them once")
    return tuple(found)
