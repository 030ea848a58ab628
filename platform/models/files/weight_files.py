"""The files that hold a model's weights, in every layout that transformers reads, as one dictionary of tensors.

In this order: `model.safetensors`, its shards with `model.safetensors.index.json`, `pytorch_model.bin`, its shards with
`pytorch_model.bin.index.json`. Pickles are read with weights-only unpickling and refused when they hold anything but
tensors. An index is believed in nothing: the files it names lie in the folder, each tensor is where it says, and one
that stands in two files is the same in both.
"""

from __future__ import annotations

import pickle  # noqa: TID251 - only for the name of the error that a refused file raises
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.inside import leads_down
from ...core.json_files import read_object
from .tied_weights import same

#: patterns of the files that hold weights: those to ask the hub for first, and those only where these are not there
SAFETENSORS, PICKLES = ("model*.safetensors",), ("pytorch_model*.bin",)
_NAMED = 3  # how many of several missing names a message lists


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of `folder`, by the names of the files. Raises InputError naming the file that cannot be used."""
    for kind in _KINDS:
        for path in (folder / kind.single, folder / kind.index):
            if path.is_dir():
                raise InputError(f"{path}: is a folder, and should be a file; copy the model again")
    for kind in _KINDS:
        if (folder / kind.single).exists():
            return kind.read(folder / kind.single)
        if (folder / kind.index).exists():
            return _sharded(folder / kind.index, kind.read)
    raise InputError(f"{folder}: no weights; expected {' or '.join(kind.single for kind in _KINDS)}, or their shards")


def missing_files(folder: Path) -> list[str]:
    """Names of the weight files that `folder` lacks; [] where there is a whole set. Raises InputError for an index that
    cannot be used."""
    for kind in _KINDS:
        if (folder / kind.single).exists():
            return []
        if (folder / kind.index).exists():
            return [part for part in _parts(folder / kind.index) if not (folder / part).exists()]
    return [_KINDS[0].single]


def check_finite(weights: dict[str, Tensor], folder: Path) -> None:
    """Raise InputError naming the first tensor that is not floating point or holds NaN or infinity."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise InputError(f"{folder}: tensor {name} has dtype {tensor.dtype}; weights must be floating point")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{folder}: tensor {name} contains NaN or infinite values; the checkpoint is damaged")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file, as an index says."""
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{index}: is no index of weights; it has no weight_map from tensors to files")
    for name, part in found.items():
        if not isinstance(part, str) or not part:
            raise InputError(f"{index}: weight_map[{name!r}] is {part!r}, and should be the name of a file")
        if not leads_down(part):
            raise InputError(f"{index}: names a file outside its folder, {part!r}")
    return found


def _parts(index: Path) -> list[str]:
    return sorted(set(_weight_map(index).values()))


def _sharded(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    claimed, parts = _weight_map(index), _parts(index)
    lacking = [part for part in parts if not (index.parent / part).is_file()]
    if lacking:
        raise InputError(f"{index}: names weight files that are not there: {listed(lacking)}; copy the model again")
    merged: dict[str, Tensor] = {}
    place: dict[str, str] = {}
    for part in parts:
        tensors = read(index.parent / part)
        lost = sorted(name for name, at in claimed.items() if at == part and name not in tensors)
        if lost:
            raise InputError(f"{index}: says that {part} holds {listed(lost)}, which it does not; copy the model again")
        for name, tensor in tensors.items():
            if name in merged and not same(merged[name], tensor):
                raise InputError(f"{index.parent}: {name} stands in {place[name]} and {part} with different values")
            merged[name], place[name] = tensor, part
    return merged


def listed(names: list[str]) -> str:
    """The first few of `names`, and how many there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing weight file") from None
    except (SafetensorError, struct.error, ValueError, OSError) as error:
        raise InputError(f"{path}: damaged or truncated safetensors file ({error}); copy it again") from error


def _pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch guesses at what is wrong with the file; the error says it
            content: Any = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors only
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, this pickle holds more than tensors and could run code; "
            "convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged or truncated weight file ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return {str(name): tensor.detach() for name, tensor in content.items()}


class _Kind(NamedTuple):
    """One way to store weights: the name of the whole, of the index of its shards, and the reader of one file."""

    single: str
    index: str
    read: Callable[[Path], dict[str, Tensor]]


_KINDS = (
    _Kind("model.safetensors", "model.safetensors.index.json", _safetensors),
    _Kind("pytorch_model.bin", "pytorch_model.bin.index.json", _pickle),
)
