"""A moving average of the weights, kept beside the optimizer's moments and evaluated in the weights' place.

    average += (1 - d_t) (weight - average),   d_t = min(decay, (1 + t) / (10 + t)) after update t

The average of the first updates is short, so that the first weights, drawn at random, are soon forgotten. It is an
entry `ema` of the optimizer's state: checkpoints hold and restore it as they do the moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_NAME = "ema"


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Take the weights after an optimizer step into their average, which begins with those of the first step."""
    states = list(_states(optimizer))
    updates = float(states[0][1]["step"])  # of all of them: to ask a GPU for each would make it wait
    towards = 1 - min(decay, (1 + updates) / (10 + updates))
    for parameter, state in states:
        if _NAME not in state:
            state[_NAME] = parameter.detach().clone()
        state[_NAME].lerp_(parameter, towards)


@contextmanager
def averaged(optimizer: torch.optim.Optimizer, wanted: bool = True) -> Iterator[None]:
    """Inside the block the weights are their averages, where there are any; afterwards they have their bits again."""
    held = [(p, state) for p, state in _states(optimizer) if wanted and _NAME in state]

    @torch.no_grad()
    def exchange() -> None:
        for parameter, state in held:  # in place: others hold the weights' memory
            last = parameter.detach().clone()
            parameter.copy_(state[_NAME])
            state[_NAME].copy_(last)

    exchange()
    try:
        yield
    finally:
        exchange()


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Every parameter that was updated so far, with its state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                yield parameter, state
