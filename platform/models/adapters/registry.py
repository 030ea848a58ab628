"""Which adapter a model_type has, and the ways to an adapted model: from a folder's content, or with new weights."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from ...errors import UsageError, suggest
from .config import AdaptedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..config import ModelConfig
    from .base import AdaptedModel

_ADAPTERS: dict[str, type[AdaptedModel]] = {}
A = TypeVar("A", bound="type[AdaptedModel]")


def adapter(model_type: str) -> Callable[[A], A]:
    """Class decorator: make an `AdaptedModel` the one for `model_type`."""

    def register(cls: A) -> A:
        taken = _ADAPTERS.get(model_type)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise UsageError(f"two adapters are for {model_type!r}: {taken.__module__} and {cls.__module__}")
        _ADAPTERS[model_type] = cls
        return cls

    return register


def names() -> list[str]:
    """Every model_type that has an adapter, sorted."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return sorted(_ADAPTERS)


def get(model_type: str) -> type[AdaptedModel]:
    """The adapter for `model_type`; raises UsageError with the nearest name if there is none."""
    if model_type not in names():
        raise UsageError(f"no adapter for model_type {model_type!r}; {suggest(model_type, _ADAPTERS)}")
    return _ADAPTERS[model_type]


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
