"""What a restoration is judged by: one number of the logits at the final position.

"prob": probability of the answer; "logprob": its natural logarithm; "logit_diff": the answer's logit minus that of a
contrast, the foil. The softmax is taken in the logits' dtype, float32 or wider.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from .arguments import integer

METRICS = ("prob", "logprob", "logit_diff")


@dataclass(frozen=True)
class Metric:
    """answer, foil: token ids; foil is None unless the metric needs one. given: whether the caller named the answer."""

    kind: str
    answer: int
    foil: int | None
    given: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """The metric (B,), float64, of logits (B, V)."""
        if self.kind == "logit_diff":
            return (logits[:, self.answer] - logits[:, self.foil]).double()
        logprob = logits[:, self.answer] - torch.logsumexp(logits, -1)
        return (logprob.exp() if self.kind == "prob" else logprob).double()


def make_metric(kind: str, answer: int | tuple[int, int] | None, clean: Tensor, corrupted: Tensor) -> Metric:
    """The metric `kind` for the final logits of the clean run (V,) and of the corrupted ones (S, V).

    answer: a token id, default the clean run's most probable one; for "logit_diff" also (answer, foil), where the foil
    defaults to the token that the corrupted runs find most probable on average, the answer left out.
    Raises UsageError for an unknown kind, a token outside of the vocabulary, and a foil that is not used.
    """
    if kind not in METRICS:
        raise UsageError(f"metric {kind!r}; {suggest(str(kind), METRICS)}")
    foil: int | None = None
    if isinstance(answer, tuple | list):
        if len(answer) != 2 or kind != "logit_diff":
            raise UsageError(f"answer {answer!r}: only metric 'logit_diff' takes a pair (answer, foil)")
        answer, foil = answer
    chosen = int(clean.argmax()) if answer is None else _token(answer, len(clean))
    if kind == "logit_diff":
        if foil is None:
            mean = torch.softmax(corrupted, -1).mean(0)
            mean[chosen] = -1.0
            foil = int(mean.argmax())
        foil = _token(foil, len(clean))
        if foil == chosen:
            raise UsageError(f"answer and foil are both token {chosen}: their logits differ by nothing")
    return Metric(kind, chosen, foil, answer is not None)


def _token(value: object, vocabulary: int) -> int:
    token = integer(value, "answer, a token id,")
    if not 0 <= token < vocabulary:
        raise UsageError(f"answer {token} is not a token id of this model: they go from 0 to {vocabulary - 1}")
    return token
