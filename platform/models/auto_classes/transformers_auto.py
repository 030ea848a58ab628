"""Our own architectures for transformers' Auto classes: `AutoModelForCausalLM.from_pretrained(folder)` after
`import mplat.models`.

Importing transformers takes longer than all of mplat, so it is not imported for this. Where it is there already, the
architectures are registered at once; else when it comes to define its Auto classes, by a finder in `sys.meta_path` that
lets every import pass and acts after two of them.

What is registered: each mixer that has no class in transformers (`hf_class` None), under its name as model_type. The
model it makes is a `PreTrainedModel` around our `LanguageModel`, with the same parameter names and scores, and with
transformers' own `generate` on our states.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_CONFIGS = "transformers.models.auto.configuration_auto"
_MODELS = "transformers.models.auto.modeling_auto"


def arrange() -> None:
    """Register now what can be registered without importing transformers, and the rest when it is imported."""
    for module, act in ((_CONFIGS, register_configs), (_MODELS, register_models)):
        if module in sys.modules:
            act()
        else:
            sys.meta_path.insert(0, _AfterImport(module, act))


def own_architectures() -> list[str]:
    """Names of the mixers that transformers has no class for."""
    from ..mixer import MIXERS

    return [name for name in MIXERS.names() if MIXERS.get(name).hf_class is None]


def register_configs() -> None:
    """Make `AutoConfig` know our architectures; one that transformers has by itself, or that is known, stays."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for arch in own_architectures():
        if arch not in CONFIG_MAPPING:
            CONFIG_MAPPING.register(arch, config_class(arch))


def register_models() -> None:
    """Make `AutoModelForCausalLM` know our architectures."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    register_configs()
    for arch in own_architectures():
        if CONFIG_MAPPING[arch] is config_class(arch):
            AutoModelForCausalLM.register(config_class(arch), model_class(arch), exist_ok=True)


_CLASSES: dict[str, type] = {}


def _defined(name: str, make: Callable[[], dict[str, Any]], *bases: type) -> type:
    """A class of this module, made once: its instances can be pickled."""
    if name not in _CLASSES:
        _CLASSES[name] = type(name, bases, {"__module__": __name__} | make())
        globals()[name] = _CLASSES[name]
    return _CLASSES[name]


def config_class(arch: str) -> type[PreTrainedConfig]:
    """transformers' configuration class for `arch`: what our config.json holds, as attributes."""
    from .transformers_config import MplatConfig

    title = "".join(part.capitalize() for part in arch.split("_"))
    return _defined(f"{title}Config", lambda: {"model_type": arch}, MplatConfig)


def model_class(arch: str) -> type[PreTrainedModel]:
    """transformers' model class for `arch`."""
    from .transformers_model import MplatForCausalLM

    title = "".join(part.capitalize() for part in arch.split("_"))
    return _defined(f"{title}ForCausalLM", lambda: {"config_class": config_class(arch)}, MplatForCausalLM)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds one module where everybody else does, and acts after its first import."""

    def __init__(self, module: str, act: Callable[[], None]) -> None:
        self.module, self.act = module, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        found = (f.find_spec(fullname, path, target) for f in list(sys.meta_path) if hasattr(f, "find_spec"))
        spec = next((s for s in found if s is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self.act)
        return spec


class _Then(importlib.abc.Loader):
    """A loader that acts after it has run a module, and gives the module its own loader back."""

    def __init__(self, loader: Any, act: Callable[[], None]) -> None:
        self.loader, self.act = loader, act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.act()
