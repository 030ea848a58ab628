"""A model with random weights, as a control: whatever is found in it too was not learnt.

The entries of every parameter are put into a random order, each parameter by itself. Its values stay those that they
were, so that scales, decays and biases are of the trained model's size, and what the weights compute is lost (compare
Heap et al. 2025, arXiv 2501.17727, who redraw them from a Gaussian of the same mean and variance).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from ...runtime.plan import digest_of

if TYPE_CHECKING:
    from ...models import LanguageModel


def with_random_weights(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy of `model` with the entries of each parameter in a random order, which follows from its name and seed."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            generator = torch.Generator().manual_seed(int(digest_of(["random weights", seed, name])[:15], 16))
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.detach().flatten()[order].view_as(parameter))
    return other.eval()
