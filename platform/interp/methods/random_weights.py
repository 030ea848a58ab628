"""A model that has learned nothing and is otherwise the same: what a method finds there, it does not find by training.

Every entry of a weight tensor is put elsewhere in the same tensor. So each tensor keeps its values, and with them scale
and spectrum of a trained model's weights as far as chance leaves them, whatever the architecture; what they said
together is gone.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ...models import LanguageModel


@torch.no_grad()
def shuffled_weights(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy of `model` with the entries of each parameter shuffled; tied parameters stay tied."""
    other = copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})
    generator = torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other
