"""The tensors of a Lightning checkpoint, read without running anything from the file.

A Lightning pickle also holds settings, as objects of omegaconf and of Lightning itself. Whatever it names is listed
first; objects of those packages and of Python's containers become empty stand-ins, neither imported nor used, and a
file that asks for anything else is refused. Reading is torch's weights-only unpickler throughout.
"""

from __future__ import annotations

import pickle  # noqa: TID251 - only for the name of the error that a refused file raises
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.errors import InputError

#: whose objects may stand in a checkpoint, as empty stand-ins
_STAND_INS = re.compile(
    r"(omegaconf|pytorch_lightning|lightning|lightning_fabric|collections|typing)\.[\w.]+"
    r"|builtins\.(dict|list|set|tuple|int|float|str|bool|object)"
)


class _Nothing:
    """Stands for an object of a class that is not imported: takes what the pickle gives it and keeps none of it."""

    def __new__(cls, *args: object, **kwargs: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning checkpoint, mapped from the file. Raises InputError for whatever it is instead."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a checkpoint of PyTorch, or damaged; copy it again")
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in found if not _STAND_INS.fullmatch(name)]
        if refused:
            raise InputError(f"{path}: refused, this pickle asks for {refused[0]} and could run code")
        with torch.serialization.safe_globals([(_Nothing, name) for name in found]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: Any = torch.load(  # noqa: TID251 - tensors, plain values and stand-ins only
                path, map_location="cpu", weights_only=True, mmap=True
            )
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, this pickle does more than hold tensors and settings ({error})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged or truncated checkpoint ({error})") from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise InputError(f"{path}: holds no dictionary of tensors under 'state_dict'")
    return weights
