"""A model whose weights say nothing: the baseline of methods that find something in every model.

A published audit (Heap et al. 2025, arXiv 2501.17727) finds that sparse autoencoders of random transformers look much
like those of trained ones. What such a method finds in a trained model counts for what it finds more than here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from .model import LanguageModel

_LAST: WeakKeyDictionary[LanguageModel, tuple[int, LanguageModel]] = WeakKeyDictionary()


def shuffled(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """A copy of `model` with the entries of every weight with two axes or more in a random order.

    Each keeps its distribution, so that sites keep about their size and decays stay decays; what was learned is in the
    order and is lost. Vectors (norms, biases, D, decays of a head) stay. The last copy of a model is kept for the next
    call; its weights are not to be changed.
    """
    kept = _LAST.get(model)
    if kept is not None and kept[0] == seed:
        return kept[1]
    tokenizer = model.tokenizer
    copied = copy.deepcopy(model, {} if tokenizer is None else {id(tokenizer): tokenizer})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(copied.named_parameters()):
            if weight.ndim >= 2:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].reshape(weight.shape))
    _LAST[model] = (seed, copied)
    return copied
