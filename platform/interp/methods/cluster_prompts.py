"""Components of a decomposition on prompts with answers: importances token by token, what their ablation costs, slopes.

The loss is minus the log-probability of the answer in nats, teacher-forced. Taking components away subtracts them from
the matrices as they are, so that with none taken away the model is itself however faithful the sum of all is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.batches import Batch
from .matrix_function import Layer, Matrix, clean_pass
from .prompts_function import PromptsFunction
from .stochastic_masks import Parameters, importances, scaled

#: name of a matrix -> numbers of its components
Sets = Mapping[str, Sequence[int]]


def answer_losses(function: PromptsFunction, batch: Batch, layers: Mapping[str, Layer]) -> Tensor:
    """Loss (B,) of each item of the batch, which are the function's."""
    answered = batch.answered()
    logits = function.logits(torch.arange(len(batch.items)), layers, answered.columns)
    chosen = torch.log_softmax(logits, -1).gather(-1, answered.targets[..., None])[..., 0]
    return -torch.where(answered.counts, chosen, torch.zeros_like(chosen)).sum(1)


@torch.no_grad()
def token_importances(function: PromptsFunction, parameters: Parameters, chosen: Sets) -> list[Tensor]:
    """Of each prompt, importances between 0 and 1 of the chosen components, (tokens, k), matrix after matrix."""
    examples = torch.arange(len(function.items))
    raw = importances(function, parameters, clean_pass(function, examples))
    mask = function.counted(examples)
    together = torch.cat([raw[name][..., list(numbers)].clamp(0.0, 1.0) for name, numbers in chosen.items()], -1)
    return [row[real] for row, real in zip(together, mask, strict=True)]


@torch.no_grad()
def ablation_losses(function: PromptsFunction, parameters: Parameters, batch: Batch, taken: Sets) -> Tensor:
    """Loss (B,) without these components."""
    layers: dict[str, Layer] = {}
    for name, numbers in taken.items():
        if numbers:
            matrix = function.matrices[name]
            layers[name] = scaled(
                matrix, parameters, name, _index(matrix, numbers), matrix.weight.new_zeros(len(numbers))
            )
    return answer_losses(function, batch, layers)


class Slopes(NamedTuple):
    """loss (B,) and its slope (B, k) in a factor of each chosen component at 1: minus it is what taking the component
    away would cost, to first order."""

    loss: Tensor
    slope: Tensor


def mask_slopes(function: PromptsFunction, parameters: Parameters, batch: Batch, chosen: Sets) -> Slopes:
    """The slopes of all chosen components, matrix after matrix."""
    factors: list[Tensor] = []
    layers: dict[str, Layer] = {}
    with torch.enable_grad():
        for name, numbers in chosen.items():
            matrix = function.matrices[name]
            factor = matrix.weight.new_ones(len(batch.items), 1, len(numbers)).requires_grad_()
            factors.append(factor)
            layers[name] = scaled(matrix, parameters, name, _index(matrix, numbers), factor)
        losses = answer_losses(function, batch, layers)
        found = torch.autograd.grad(losses.sum(), factors)
    return Slopes(losses.detach(), torch.cat([each[:, 0] for each in found], -1))


def _index(matrix: Matrix, numbers: Sequence[int]) -> Tensor:
    return torch.tensor(list(numbers), device=matrix.weight.device)
