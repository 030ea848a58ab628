"""Experts, each evaluated on the tokens that chose it and on no other.

Choices are sorted by expert, so that an expert is two matrix products over consecutive rows: the work follows the
number of choices, not the number of experts. Weights are stacked over experts; one without tokens gets the gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NOWHERE = -1

# Matrix libraries add up the rows of a short product in another order than those of a long one. From this many rows on
# a row's result depends on its content alone, so that moving one token to another expert leaves the others' bits alone.
_LEAST_ROWS = 16


def _relu(x: Tensor) -> Tensor:
    return F.relu(x)


def _gelu_gated(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.gelu(gate) * value


#: rows (n, d) -> rows (n, d), each row by itself
Expert = Callable[[Tensor], Tensor]

#: name -> (function between the two layers, how many times the inner width the first layer has)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {"relu": (_relu, 1), "gelu_gated": (_gelu_gated, 2)}


def run_experts(x: Tensor, index: Tensor, fc1: Tensor, fc2: Tensor, activation: str) -> Tensor:
    """What each chosen expert says, (N, k, d): fc2[e] act(fc1[e] x) without biases, and 0 where index is NOWHERE.

    x (N, d). index (N, k): experts 0 to E-1, or NOWHERE. fc1 (E, f, d), or (E, 2f, d) with a gated activation, whose
    first half goes through the gelu. fc2 (E, d, f).
    """
    act, _ = ACTIVATIONS[activation]

    def expert(first: Tensor, second: Tensor) -> Expert:
        return lambda rows: F.linear(act(F.linear(rows, first)), second)

    return ask_experts(x, index, [expert(*pair) for pair in zip(fc1.unbind(), fc2.unbind(), strict=True)])


def ask_experts(x: Tensor, index: Tensor, experts: Sequence[Expert]) -> Tensor:
    """What each chosen expert says, (N, k, d), and 0 where index (N, k) is NOWHERE. An expert maps (n, d) to (n, d)."""
    n, k = index.shape
    choices = torch.where(index == NOWHERE, len(experts), index).flatten()
    order = choices.argsort(stable=True)
    counts: list[int] = torch.bincount(choices, minlength=len(experts) + 1).tolist()
    least = min(_LEAST_ROWS, n * k)
    parts: list[Tensor] = []
    groups = (x if k == 1 else x.repeat_interleave(k, 0))[order].split(counts)
    for rows, expert in zip(groups, experts, strict=False):
        if len(rows):
            padded = F.pad(rows, (0, 0, 0, max(0, least - len(rows))))
            parts.append(expert(padded)[: len(rows)])
    parts.append((parts[0] if parts else x).new_zeros(counts[-1], x.shape[-1]))
    return torch.cat(parts)[order.argsort()].view(n, k, x.shape[-1])
