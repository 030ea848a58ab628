"""What a mixer must provide, and the registry that finds them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ...errors import UsageError, suggest

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..run import Run

LayerState = dict[str, Tensor]


class SiteInfo(NamedTuple):
    """A mixer site as its architecture declares it: the shape after (batch, time), and what it means."""

    name: str
    shape: tuple[int, ...]
    meaning: str


class Mixer(nn.Module):
    """Base of all mixers.

    `forward(u, run, prefix, state)` maps the normed block input u (B, T, d) to the mixer output (B, T, d) and the
    layer's new state. It passes every named quantity through `run.site(prefix + name, tensor)`, so that it can be read
    and edited, and treats `state=None` as a zero state.
    """

    #: parameters (by last name) that weight decay must not touch, besides biases and norms
    no_decay: ClassVar[frozenset[str]] = frozenset()
    #: fields of ModelConfig that only some architectures use and this one does
    config_fields: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation, drawn from `generator`."""
        raise UsageError(f"{type(self).__name__} defines no initialisation")

    def reset_to_recall(self, generator: torch.Generator) -> None:
        """After `reset_parameters`: change what makes the layer read, at once, what followed an earlier like token.

        Writing by the two tokens before (the key) and reading by the two latest (the question) with one projection is
        associative recall; a slow decay keeps it. After Trockman et al. (arXiv 2410.11135), who tie B and C, keep the
        state and start the convolution as the identity; the shift between B and C is what a key before its value needs.
        """
        raise UsageError(f"{type(self).__name__} has no recall initialisation")

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        """The state before the first token."""
        raise UsageError(f"{type(self).__name__} defines no state")

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> tuple[Tensor, LayerState] | None:
        """One token u (B, 1, d) after `state`, the same bits as `forward` without its sites; None where there is no
        faster way than `forward`. overwrite: nobody else holds `state`, its memory may be used again."""
        return None

    @classmethod
    def site_table(cls, config: ModelConfig) -> list[SiteInfo]:
        """The mixer's sites, in the order in which a forward pass meets them."""
        raise UsageError(f"{cls.__name__} declares no sites")

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        raise UsageError(f"{type(self).__name__} defines no forward pass")


_MIXERS: dict[str, type[Mixer]] = {}
M = TypeVar("M", bound=type[Mixer])


def mixer(name: str) -> Callable[[M], M]:
    """Class decorator: make a `Mixer` known under `name`."""

    def register(cls: M) -> M:
        if name in _MIXERS and _MIXERS[name].__qualname__ != cls.__qualname__:
            raise UsageError(f"two mixers are called {name!r}: {_MIXERS[name].__module__} and {cls.__module__}")
        _MIXERS[name] = cls
        return cls

    return register


def _import_all() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def names() -> list[str]:
    """Names of all registered mixers, sorted."""
    _import_all()
    return sorted(_MIXERS)


def get(name: str) -> type[Mixer]:
    """The mixer class called `name`; raises UsageError with the nearest name if there is none."""
    _import_all()
    if name not in _MIXERS:
        raise UsageError(f"unknown architecture {name!r}; {suggest(name, _MIXERS)}")
    return _MIXERS[name]
