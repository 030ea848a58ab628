"""Tensors beside the tables of a result: one safetensors file for each part, whose tensors are read when asked for.

Equal tensors give equal bytes. The header says in its metadata, under `mplat`, what the file is of. The format has no
checksums: whoever opens a file compares its digest with the one that was noted when it was written (`check_tensors`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.whole_files import Published, publish_bytes
from ...runtime.plan import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_ABOUT = "mplat"  # one entry of metadata, because the order of several is not kept


class StoredTensors(Mapping[str, "Tensor"]):
    """The tensors of one file by name, on the CPU; each is read from the file when it is asked for.

    Raises InputError naming the file where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            self._names = tuple(sorted(file.keys()))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with _opened(self.path) as file:
            return file.get_tensor(name).clone()  # not a view of a file that others may replace

    def mapped(self, name: str) -> Tensor:
        """The tensor in the pages of the file, to read rows of it without holding it; not to be written to."""
        if name not in self._names:
            raise KeyError(name)
        with _opened(self.path) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def publish_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, Any], *, replace: bool) -> Published:
    """Write tensors of any shapes, dtypes and devices; `about` is plain JSON. See `whole_files`."""
    import torch
    from safetensors.torch import save

    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    data = save(own, {_ABOUT: canonical_json(dict(about))})
    return publish_bytes(data, path, replace=replace, verify=StoredTensors)


def about_of(path: Path) -> str:
    """The JSON that a file was marked with, empty where it has no mark. Raises InputError where it cannot be read."""
    with _opened(path) as file:
        return (file.metadata() or {}).get(_ABOUT, "")


def check_tensors(path: Path, sha256: str) -> StoredTensors:
    """The tensors in `path`. Raises InputError where the file is missing, damaged or has not digest `sha256`."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if digest != sha256:
        raise InputError(f"{path}: damaged, its sha256 is {digest[:16]} and was {sha256[:16]} when it was written")
    return StoredTensors(path)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from error
