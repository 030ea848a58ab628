"""A baseline: vectors that the model reads before the text as if they were embeddings, all weights frozen (prompt
tuning, Lester et al. 2021, arXiv 2104.08691).

The vectors are read once for a batch, and the texts continue the state that they leave. So to a recurrent model a
prefix is a state that it can come to by reading; a learned state is any state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError
from .descent import Budget, Descent, descend
from .examples import Example, rows_of
from .learned_state import frozen
from .scoring import Forward

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class SoftPrefix:
    """vectors (P, d): in place of embeddings. descent: how they were learned."""

    vectors: Tensor
    descent: Descent

    def forward(self, model: LanguageModel) -> Forward:
        """The forward pass of texts behind the prefix."""
        return _behind(model, self.vectors)


def learn_prefix(
    model: LanguageModel,
    examples: Sequence[Example],
    development: Sequence[Example],
    *,
    length: int,
    steps: int = 120,
    lr: float = 0.01,
    seed: int = 0,
    dropout: float = 0.0,
    batch_size: int = 16,
    stop: int | None = None,
) -> SoftPrefix:
    """`length` vectors behind which `model` answers `examples`, chosen among the steps by `development`; of step
    `stop`, where that is given. They begin as embeddings of random tokens.

    dropout: of what is learned beside these embeddings. Raises UsageError for values that cannot be, InputError for
    examples that cannot be read, ToleranceError where the loss is not finite.
    """
    if length < 1 or not 0 <= dropout < 1:
        raise UsageError(
            f"a prefix has at least 1 vector, and dropout is from 0 to below 1, not {length} and {dropout}"
        )
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.config.vocab_size, (length,), generator=generator)
    table = model.embedding.weight.detach()
    start = table[tokens.to(table.device)].float() * model.embedding_scale
    change = torch.zeros_like(start).requires_grad_()

    def learning(drawn: torch.Generator) -> Forward:
        if not dropout:
            return _behind(model, start + change)
        kept = (torch.rand(change.shape, generator=drawn) >= dropout).to(change) / (1 - dropout)
        return _behind(model, start + change * kept)

    def judging(tokens: Tensor, mask: Tensor) -> Tensor:
        return _behind(model, start + change)(tokens, mask)

    with frozen(model):
        descent = descend(
            [change],
            learning,
            judging,
            rows_of(model, examples),
            rows_of(model, development),
            Budget(steps, lr, batch_size, seed=seed, stop=stop),
        )
    return SoftPrefix((start + change).detach(), descent)


def _behind(model: LanguageModel, vectors: Tensor) -> Forward:
    from ...models import Replace

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        places = range(len(vectors))
        with model.edit(Replace("embed", vectors, positions=list(places))):
            any_token = torch.zeros(1, len(vectors), dtype=torch.long, device=tokens.device)
            _, state = model(any_token, return_state=True, last_only=True)
        return model(tokens, mask, state=state.rows([0] * len(tokens)))

    return forward
