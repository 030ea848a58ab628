"""Which adapter a model_type has, and the ways to an adapted model: from a folder's content, or with new weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ...core.registry import Registry
from .adapter_config import AdaptedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..model_config import ModelConfig
    from .base import AdaptedModel

ADAPTERS: Registry[type[AdaptedModel]] = Registry("adapter for model_type", "adapter", __name__)
adapter, names, get = ADAPTERS.itself, ADAPTERS.names, ADAPTERS.get


def construct(config: AdaptedConfig, tokenizer: PreTrainedTokenizerFast | None = None, name: str = "") -> AdaptedModel:
    """A model of this shape with the weights that transformers starts with (on device "meta": shapes only)."""
    return get(config.model_type)(cast("ModelConfig", config), tokenizer, name)


def build(
    config: AdaptedConfig, seed: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> AdaptedModel:
    """A model with transformers' own initialisation, drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = construct(config)
    return model.to(device=device, dtype=dtype)
