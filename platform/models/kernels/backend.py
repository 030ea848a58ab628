"""Which kernels exist, and which one a call gets.

One operation (`scan`, `ssd`, `conv`) has several backends. A backend is a function decorated with `@kernel("scan",
"torch")` in a file of this folder: adding one is adding a file, nothing else lists it. A backend that cannot do every
call says so in a function decorated with `@limits("scan", "cuda")` in the same file. The backend "reference" is the
definition; beside it `@example("scan")` draws the arguments on which all others are held against it.

Promises: a backend's file is imported when it is first called, never before, so importing this package imports no
compiler; `auto` is a pure function of the operation, the tensor's device, what is installed and, where a backend has
limits, which features the call needs; `resolve` tells the caller which name it stands for, so that results can record
it: without the call's arguments, the name for a call that needs nothing special. It does not fall back: a backend that
was asked for by name and cannot run is an error, and so is one that `auto` names and that fails.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

from ...core.errors import UsageError, suggest
from ...core.registry import decorated

Backend = Callable[..., Any]
_Function = TypeVar("_Function", bound=Backend)

# The package each backend needs besides torch, by backend or, where operations differ, by (operation, backend). A
# backend that is not named here is always available.
REQUIRES: dict[str | tuple[str, str], str] = {
    "numba": "numba",
    "triton": "triton",
    ("conv", "cuda"): "causal_conv1d",
    ("scan", "cuda"): "mamba_ssm",
    ("ssd", "cuda"): "mamba_ssm",
}
# The only type of device whose tensors a backend takes. A backend that is not named here takes all.
DEVICE = {"numba": "cpu", "triton": "cuda", "cuda": "cuda"}
# The order in which `auto` tries the backends, by device type; "torch" runs everywhere and ends every list.
PREFERENCE = {"cpu": ("numba", "torch"), "cuda": ("cuda", "triton", "torch")}

_registered: dict[tuple[str, str], Backend] = {}
_limits: dict[tuple[str, str], Callable[..., str | None]] = {}
_examples: dict[str, Callable[[torch.Generator], tuple[Any, ...]]] = {}


def kernel(operation: str, backend: str) -> Callable[[_Function], _Function]:
    """Register the decorated function as `backend` of `operation`. Both must be literals on one line: the file is found
    by it."""
    return _kept_in(_registered, (operation, backend))


def limits(operation: str, backend: str) -> Callable[[_Function], _Function]:
    """Register the decorated function as what `backend` cannot do: it takes the arguments of the backend and returns
    the feature of this call that is missing, in words, or None. It looks at shapes, types, at which arguments are
    there and at whether gradients are wanted, never at values."""
    return _kept_in(_limits, (operation, backend))


def example(operation: str) -> Callable[[_Function], _Function]:
    """Register, in the reference's file, a function generator -> arguments of a backend, in float64 and all of them
    there; sequences are of 70 tokens in two rows, with documents, which no chunk or vector divides evenly."""
    return _kept_in(_examples, operation)


def _kept_in(table: dict[Any, Any], key: Any) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        table[key] = function
        return function

    return register


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Normal numbers for an example."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def starts(generator: torch.Generator) -> torch.Tensor:
    """Where documents of an example start, (2, 70): some rows begin inside of one."""
    return torch.rand(2, 70, generator=generator) < 0.1


def example_arguments(operation: str, seed: int = 0) -> tuple[Any, ...]:
    """Those of `example`; UsageError for an operation that does not exist."""
    _load(operation, "reference", _known(operation)["reference"])
    return _examples[operation](torch.Generator().manual_seed(seed))


@cache
def _files(decorator: str = "kernel") -> dict[str, dict[str, str]]:
    """operation -> backend -> name of its module, from the decorator lines below this folder (nothing is imported)."""
    modules: dict[str, dict[str, str]] = {}
    for (operation, backend), module in decorated(__name__.rpartition(".")[0], decorator):
        modules.setdefault(operation, {})[backend] = module
    return modules


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _known(operation: str) -> dict[str, str]:
    if operation not in _files():
        raise UsageError(f"no kernel operation {operation!r}; {suggest(operation, _files())}")
    return _files()[operation]


def operations() -> list[str]:
    """The operations that have kernels, sorted."""
    return sorted(_files())


def interpreted() -> bool:
    """Triton runs its kernels in Python, on tensors of any device: slow, for tests. Read when triton is imported, so it
    has to be set before."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _obstacle(operation: str, backend: str, device: str | None) -> str | None:
    """Why `backend` cannot run here at all, or not on tensors of the type `device`; None if it can."""
    package = REQUIRES.get(backend) or REQUIRES.get((operation, backend))
    if package is not None and not _installed(package):
        return f"needs the package {package!r}, which is not installed; install it or use backend='torch'"
    only = DEVICE.get(backend)
    if backend == "triton" and interpreted():
        return None
    if device is not None and only not in (None, device):
        place = "the CPU" if only == "cpu" else "a GPU"
        return f"runs on {place} only, the tensor is on {device}; use backend='torch'"
    if only == "cuda" and device is None and not torch.cuda.is_available():
        return "needs a GPU, and there is none; use backend='torch'"
    return None


def backends(operation: str, device: str | None = None) -> list[str]:
    """The backends of `operation` that can run here (on tensors of the type `device`, such as "cpu", if given), sorted;
    UsageError for an operation that does not exist."""
    return [name for name in sorted(_known(operation)) if _obstacle(operation, name, device) is None]


def _candidates(operation: str, tensor: torch.Tensor, backend: str) -> list[str]:
    """The backends that may take a call on `tensor`, best first; one, if it was asked for by name."""
    known, device = _known(operation), tensor.device.type
    if backend == "auto":
        order = PREFERENCE.get(device, ("torch",))
        return [name for name in order if name in known and _obstacle(operation, name, device) is None]
    if backend not in known:
        raise UsageError(f"{operation}: no backend {backend!r}; {suggest(backend, ['auto', *backends(operation)])}")
    obstacle = _obstacle(operation, backend, device)
    if obstacle is not None:
        raise UsageError(f"{operation}: backend {backend!r} {obstacle}")
    return [backend]


def resolve(operation: str, tensor: torch.Tensor, backend: str = "auto", arguments: tuple[Any, ...] = ()) -> str:
    """The name of the backend that a call on `tensor` uses: with these `arguments` of the backend, or, without them,
    for a call that needs no special feature.

    Raises UsageError for a name that does not exist, cannot run here or cannot do this call.
    """
    candidates = _candidates(operation, tensor, backend)
    if not arguments:
        return candidates[0]
    missing = None
    for name in candidates:
        missing = _limit(operation, name)(*arguments)
        if missing is None:
            return name
    raise UsageError(f"{operation}: backend {backend!r} cannot do {missing}; use backend='auto' or 'triton'")


def modules_of(operation: str, tensor: torch.Tensor) -> list[str]:
    """The modules of the backends that a call on `tensor` may reach: the one that `resolve` names, those after it where
    it has limits, and the definition, which answers for empty calls."""
    names = _candidates(operation, tensor, "auto")
    last = next((n for n, name in enumerate(names) if name not in _files("limits").get(operation, {})), len(names) - 1)
    return [_files()[operation][name] for name in dict.fromkeys([*names[: last + 1], "reference"])]


def _load(operation: str, name: str, file: str) -> None:
    """Import the file of a backend on first use."""
    if (operation, name) not in _registered:
        importlib.import_module(file)


def _limit(operation: str, name: str) -> Callable[..., str | None]:
    """What a backend cannot do, see `limits`; most can do everything, and their files are not imported for that."""
    file = _files("limits").get(operation, {}).get(name)
    if file is None:
        return lambda *arguments: None
    _load(operation, name, file)
    return _limits[operation, name]


def select(operation: str, tensor: torch.Tensor, backend: str, *, empty: bool = False) -> Backend:
    """The function of the backend that `resolve` names, importing its file on first use. Where that depends on the
    arguments, the function that is returned decides when it gets them.

    empty: the call has no sequence, channel or state. There is nothing to cut into chunks, vectors or programs then,
    and every backend's answer is that of the definition.
    """
    name = resolve(operation, tensor, backend)
    if empty:
        return _function(operation, "reference")
    if name in _files("limits").get(operation, {}):
        return lambda *arguments: _function(operation, resolve(operation, tensor, backend, arguments))(*arguments)
    return _function(operation, name)


def _function(operation: str, name: str) -> Backend:
    _load(operation, name, _files()[operation][name])
    return _registered[operation, name]
