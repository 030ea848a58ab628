"""Models that transformers has and we have no mixer for, with everything a `LanguageModel` can: one file per type.

An adapter subclasses `AdaptedModel` (module `base`), is decorated with `@adapter("model_type")` and found by import. It
takes transformers' configuration and modules, puts our mixers, norms and feed-forward parts in the place of those whose
inside is to be seen, and runs the layers itself; transformers' own forward pass is never called, so that state, masks,
packed documents and float64 are ours. Parameter names are those of the files that transformers writes, both ways. Code
from a model's folder is never run.

Dropout is not applied, in training mode either: an adapted model is there to be compared, read and steered.
"""

from __future__ import annotations

from .adapter import adapter, build, construct, get, names
from .adapter_config import AdaptedConfig
from .base import AdaptedModel

__all__ = ["AdaptedConfig", "AdaptedModel", "adapter", "build", "construct", "get", "names"]
