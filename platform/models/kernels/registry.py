"""Which kernels exist, and which one a call gets.

One operation (`scan`, `ssd`, `conv`) has several backends. A backend is a function decorated with `@kernel("scan",
"torch")` in a file of this folder: adding one is adding a file, nothing else lists it.

Promises: a backend's file is imported when it is first called, never before, so importing this package imports no
compiler; `auto` is a pure function of the operation, the tensor's device and what is installed, and `resolve` tells the
caller which name it stands for, so that results can record it. It does not fall back: a backend that was asked for by
name and cannot run is an error.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...errors import UsageError, suggest

Backend = Callable[..., Any]
_Function = TypeVar("_Function", bound=Backend)

# The package each backend needs besides torch. A backend that is not named here is always available.
REQUIRES = {"numba": "numba"}
# The order in which `auto` tries the backends, by device type; "torch" runs everywhere and ends every list.
PREFERENCE = {"cpu": ("numba", "torch")}

_registered: dict[tuple[str, str], Backend] = {}


def kernel(operation: str, backend: str) -> Callable[[_Function], _Function]:
    """Register the decorated function as `backend` of `operation`. Both must be literals on one line: the file is found
    by it."""

    def register(function: _Function) -> _Function:
        _registered[operation, backend] = function
        return function

    return register


@cache
def _files() -> dict[str, dict[str, str]]:
    """operation -> backend -> name of its file, from the decorator lines in this folder (nothing is imported)."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for operation, backend in re.findall(r'^@kernel\("(\w+)", "(\w+)"\)$', path.read_text("utf-8"), re.MULTILINE):
            found.setdefault(operation, {})[backend] = path.stem
    return found


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


def backends(operation: str) -> list[str]:
    """The backends of `operation` that can run here, sorted; UsageError for an operation that does not exist."""
    return [name for name in sorted(_known(operation)) if name not in REQUIRES or _installed(REQUIRES[name])]


def resolve(operation: str, tensor: torch.Tensor, backend: str = "auto") -> str:
    """The name of the backend that a call on `tensor` uses. Raises UsageError for a name that does not exist or cannot
    run here."""
    usable = backends(operation)
    if backend == "auto":
        order = PREFERENCE.get(tensor.device.type, ("torch",))
        return next(name for name in order if name in usable)
    if backend in usable:
        if backend == "numba" and tensor.device.type != "cpu":
            raise UsageError(
                f"{operation}: the numba backend runs on the CPU only, the tensor is on {tensor.device}; "
                "use backend='torch'"
            )
        return backend
    if backend in _known(operation):
        raise UsageError(
            f"{operation}: backend {backend!r} needs the package {REQUIRES[backend]!r}, which is not installed; "
            "install it or use backend='torch'"
        )
    raise UsageError(f"{operation}: no backend {backend!r}; {suggest(backend, ['auto', *usable])}")


def select(operation: str, tensor: torch.Tensor, backend: str) -> Backend:
    """The function of the backend that `resolve` names, importing its file on first use."""
    name = resolve(operation, tensor, backend)
    if (operation, name) not in _registered:
        importlib.import_module(f".{_files()[operation][name]}", __package__)
    return _registered[operation, name]
