"""What a model's numbers depend on besides its inputs: the one part of every content key that concerns the model.

Adding a mixer, adapter or kernel backend that a model does not use changes nothing here; changing a line that its
forward pass runs through does.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..core.code_closure import PACKAGE, Sources
from ..core.versions import versions

if TYPE_CHECKING:
    from .model import LanguageModel

#: compiled kernels come from numba; analyses and statistics compute with the last three
_DECISIVE = ("torch", "transformers", "tokenizers", "numba", "numpy", "scipy", "scikit-learn")
_SOURCES = Sources(keep=True)


def computation_key(model: LanguageModel, *modules: str) -> dict[str, Any]:
    """What decides rows that `modules`, the caller's own code, make with `model`, besides items and arguments.

    model: its digest. backend: cpu or the kind of GPU, and operation -> kernel backend for what it uses.
    sources: module -> digest of the code of the classes of this model, its kernel backends and `modules`, with all that
    they import. Raises InputError where a source file cannot be read.
    """
    known = versions()
    return {
        "model": model.digest,
        "dtype": str(model.dtype).removeprefix("torch."),
        "backend": {"device": _device(model)} | kernels(model),
        "sources": dict(_sources(tuple(sorted({*modules, *_code_of(model)})))),
        "versions": {name: known[name] for name in _DECISIVE},
    }


def kernels(model: LanguageModel) -> dict[str, str]:
    """Operation -> backend that a forward pass of `model` uses."""
    from .kernels.backend import operations, resolve

    weight = next(model.parameters())
    used = _sources(_classes_of(model))
    return {
        operation: resolve(operation, weight)
        for operation in operations()
        if any(module.startswith(f"{PACKAGE}.models.kernels.{operation}.") for module in used)
    }


def identity(model: LanguageModel) -> dict[str, Any]:
    """The section `model` of a run's record."""
    return {
        "name": model.name,
        "arch": model.config.arch,
        "parameters": model.n_parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "digest": model.digest,
    }


def backend(model: LanguageModel) -> dict[str, Any]:
    """The section `backend` of a run's record, but for where the work is done."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {"device": _device(model), "dtype": dtype, "kernels": kernels(model)}


def _device(model: LanguageModel) -> str:
    """`cpu`, or `cuda` and the name of the GPU: another kind computes other last bits. Which one of a kind, decides
    nothing."""
    import torch

    device = model.device
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _code_of(model: LanguageModel) -> set[str]:
    """The modules of the classes that a model consists of, of its changes, and of the kernel backends that its
    calls may reach."""
    from .kernels.backend import modules_of

    weight = next(model.parameters())
    changing = {module for change in model.changes for module in change.modules}
    return changing | {
        *_classes_of(model),
        *(module for operation in kernels(model) for module in modules_of(operation, weight)),
    }


def _classes_of(model: LanguageModel) -> tuple[str, ...]:
    classes = {cls.__module__ for part in model.modules() for cls in type(part).__mro__}
    return tuple(sorted(module for module in classes if module.split(".")[0] == PACKAGE))


@cache
def _sources(modules: tuple[str, ...]) -> dict[str, str]:
    """Read once: a running process computes with the sources it was started with, whatever happens to the files."""
    return _SOURCES.digests(modules)
