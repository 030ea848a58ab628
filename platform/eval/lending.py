"""The model that a worker computes with: lent by the driver where both are one process, loaded by name elsewhere.

Without this, evaluating in one process would hold the model twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..models import LanguageModel

_LENT: dict[str, LanguageModel] = {}


@contextmanager
def lent(model: LanguageModel) -> Iterator[None]:
    """Inside the block, workers of this process use `model` itself."""
    before = _LENT.get(model.digest)
    _LENT[model.digest] = model
    try:
        yield
    finally:
        if before is None:
            del _LENT[model.digest]
        else:
            _LENT[model.digest] = before


def open_model(name: str, digest: str) -> LanguageModel:
    """The model with `digest`, lent or loaded as `name`; a worker elsewhere may see another folder under that name."""
    if digest in _LENT:
        return _LENT[digest]
    from ..models import load

    model = load(name)
    if model.digest != digest:
        raise InputError(
            f"{name} has digest {model.digest[:12]} here and {digest[:12]} where the run was planned; "
            "every machine needs the same model files"
        )
    return model


def loadable_name(model: LanguageModel) -> str:
    """The model's name; a folder's in full, because a worker may have another working directory."""
    return str(Path(model.name).absolute()) if Path(model.name).is_dir() else model.name


def label(model: LanguageModel) -> str:
    """The model's name in tables: of a folder its last part, so that tables do not depend on where it lies."""
    return Path(model.name).absolute().name if Path(model.name).is_dir() else model.name
