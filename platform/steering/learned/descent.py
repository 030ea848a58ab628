"""Gradient descent on a few examples with early stopping on others: one loop for everything that is learned here.

AdamW without weight decay, gradients clipped to norm 1, ten steps of warm-up, then a cosine to zero. The parameters of
the step with the lowest development loss are kept, step 0 included: learning that does not help changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ToleranceError, UsageError
from .examples import Rows
from .scoring import Forward, loss_of, score

CLIP = 1.0
WARM_UP = 10


@dataclass(frozen=True)
class Descent:
    """How learning went. losses: of each step, on its examples. development: (step, loss on the development part),
    every few steps. kept: the step whose parameters are kept. parameters: how many numbers were learned."""

    losses: tuple[float, ...]
    development: tuple[tuple[int, float], ...]
    kept: int
    parameters: int


@dataclass(frozen=True)
class Budget:
    """steps, lr (the highest), batch_size: of the descent. every: steps between looks at the development part.
    patience: looks without a lower loss after which it stops. seed: of the order of the examples and of dropout.

    Raises UsageError for values that cannot be."""

    steps: int
    lr: float
    batch_size: int = 16
    every: int = 10
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.every, self.patience) < 1:
            raise UsageError("steps, batch_size, every and patience must be at least 1")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UsageError(f"the learning rate must be above 0, not {self.lr}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def descend(
    parameters: Sequence[Tensor],
    learning: Callable[[torch.Generator], Forward],
    judging: Forward,
    examples: Rows,
    development: Rows,
    budget: Budget,
) -> Descent:
    """Learn `parameters` in place. learning: given the step's random numbers, the forward pass that learns; judging:
    the one that is judged.

    Raises ToleranceError where a loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=budget.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(budget.seed)
    best, kept, waited = score(judging, development).nll, 0, 0
    values = [p.detach().clone() for p in parameters]
    curve, losses, order = [(0, best)], list[float](), list[int]()
    for step in range(budget.steps):
        if not order:
            order = [int(i) for i in torch.randperm(len(examples.tokens), generator=generator)]
        chosen, order = order[: budget.batch_size], order[budget.batch_size :]
        batch = examples.some(chosen)
        loss = loss_of(learning(generator)(batch.tokens, batch.mask), batch.labels)
        if not bool(torch.isfinite(loss)):
            raise ToleranceError(
                f"the loss is not finite at step {step + 1}; use a lower learning rate than {budget.lr:g}"
            )
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(float(loss.detach()))
        if (step + 1) % budget.every and step + 1 < budget.steps:
            continue
        now = score(judging, development).nll
        curve.append((step + 1, now))
        if now < best:
            best, kept, waited = now, step + 1, 0
            values = [p.detach().clone() for p in parameters]
        else:
            waited += 1
            if waited >= budget.patience:
                break
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    return Descent(tuple(losses), tuple(curve), kept, sum(p.numel() for p in parameters))
