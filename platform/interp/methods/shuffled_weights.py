"""A model of the same shape that has learned nothing: every parameter keeps its entries, in random order.

What a method finds in this one too it did not find because the model was trained (Heap et al. 2025, arXiv 2501.17727,
draw weights of equal mean and variance; here even the distribution of each parameter stays). It works for every
architecture, because it needs no rule for drawing weights.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from ...runtime.plan import digest_of

if TYPE_CHECKING:
    from ...models import LanguageModel


def shuffled(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy of `model` on its device with the entries of each parameter in an order drawn from `seed`; tied ones stay
    tied. The model itself is not changed."""
    twin = copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})  # a tokenizer is large, and never changed
    twin.name, twin._digest = f"{model.name}, weights shuffled", None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin


def weight_seeds(seed: int, draws: int) -> list[int]:
    """A seed for each of so many shuffled copies."""
    return [int(digest_of([seed, "shuffled weights", draw])[:15], 16) for draw in range(draws)]
