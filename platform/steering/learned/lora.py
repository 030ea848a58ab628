"""A baseline: low-rank changes of the projections (LoRA, Hu et al. 2021, arXiv 2106.09685), all weights frozen.

Every linear layer W (out, in) of a mixer becomes W + B A, A (r, in) drawn from a normal of variance 1 / in, B (out, r)
zero at the start. Unlike a learned state this is another model: it has other weights, and nothing it does can be turned
off in the middle of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

from ...core.errors import UsageError
from ...models.low_rank import projections
from .descent import Budget, Descent, descend
from .examples import Example, rows_of
from .learned_state import frozen
from .scoring import Forward

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class Lora:
    """factors: name of a weight -> (A (r, in), B (out, r)). descent: how they were learned."""

    factors: dict[str, tuple[Tensor, Tensor]]
    descent: Descent

    def forward(self, model: LanguageModel) -> Forward:
        """The forward pass of `model` with the changed weights."""
        return _changed(model, self.factors)

    def merged(self, model: LanguageModel) -> LanguageModel:
        """A copy of `model` whose weights are the changed ones."""
        other = copy.deepcopy(model)
        weights = cast("dict[str, Tensor]", dict(other.named_parameters()))
        with torch.no_grad():
            for name, (a, b) in self.factors.items():
                weights[name] += (b @ a).to(weights[name].dtype)
        return other


def rank_for(model: LanguageModel, parameters: int) -> int:
    """The highest rank, at least 1, with which the factors have at most so many numbers."""
    each = sum(module.in_features + module.out_features for module in projections(model).values())
    return max(1, parameters // each)


def learn_lora(
    model: LanguageModel,
    examples: Sequence[Example],
    development: Sequence[Example],
    *,
    rank: int,
    steps: int = 120,
    lr: float = 0.01,
    seed: int = 0,
    dropout: float = 0.0,
    batch_size: int = 16,
    stop: int | None = None,
) -> Lora:
    """Low-rank changes with which `model` answers `examples`, chosen among the steps by `development`; of step `stop`,
    where that is given.

    dropout: of the coordinates between A and B. Raises UsageError for values that cannot be, InputError for examples
    that cannot be read, ToleranceError where the loss is not finite.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise UsageError(f"a rank is at least 1 and dropout from 0 to below 1, not {rank} and {dropout}")
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in projections(model).items():
        a = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
        pair = a.to(model.device), torch.zeros(module.out_features, rank, device=model.device)
        factors[name] = (pair[0].requires_grad_(), pair[1].requires_grad_())

    def learning(drawn: torch.Generator) -> Forward:
        if not dropout:
            return _changed(model, factors)
        dropped = {name: (a, b * _kept(b, dropout, drawn)) for name, (a, b) in factors.items()}
        return _changed(model, dropped)

    with frozen(model):
        descent = descend(
            [factor for pair in factors.values() for factor in pair],
            learning,
            _changed(model, factors),
            rows_of(model, examples),
            rows_of(model, development),
            Budget(steps, lr, batch_size, seed=seed, stop=stop),
        )
    return Lora({name: (a.detach(), b.detach()) for name, (a, b) in factors.items()}, descent)


def _kept(b: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(b.shape, generator=generator) >= dropout).to(b) / (1 - dropout)


def _changed(model: LanguageModel, factors: dict[str, tuple[Tensor, Tensor]]) -> Forward:
    weights = cast("dict[str, Tensor]", dict(model.named_parameters()))

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        now: dict[str, Any] = {
            name: weights[name] + (b @ a).to(weights[name].dtype) for name, (a, b) in factors.items()
        }
        return functional_call(model, now, (tokens, mask))

    return forward
