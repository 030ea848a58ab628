"""The model that a worker computes with: lent by the driver where both are one process, loaded by name elsewhere.

Without this, evaluating in one process would hold the model twice. A worker elsewhere may find another folder under the
same name, so the digest is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.copies import placed
from ..core.errors import InputError, UsageError
from .changes import parted

if TYPE_CHECKING:
    from .model import LanguageModel

_LENT: dict[str, LanguageModel] = {}  # by digest
_LOADED: dict[str, None] = {}  # those of them that were loaded here, the latest last
_NOT_READ = {"optimizer.safetensors"}  # of a checkpoint; twice as large as the model
_KEPT = 2  # as many as any work reads at once; a worker's process lives through the work on many models


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


def open_model(
    name: str, digest: str, device: str | None = None, dtype: str | None = None, tokenizer: str | None = None
) -> LanguageModel:
    """The model with `digest`, lent or loaded as `name`; what is loaded stays for the next phase of this process, until
    two others were.

    device, dtype, tokenizer: as in `load`; a lent model is used where it is, on a GPU on whichever.

    Raises UsageError where the name cannot be loaded here or is another model.
    """
    known = _LENT.get(digest)
    if known is not None and device in (None, known.device.type, str(known.device)):
        return known
    from .files.loading import load

    name, tokenizer = placed(name), None if tokenizer is None else placed(tokenizer)
    where = "save it to a folder that every machine sees, load it from there, or use --address none"
    try:
        model = load(name, device=device, dtype=dtype, tokenizer=tokenizer)
    except InputError as error:
        raise UsageError(f"a worker cannot load the model of this run by its name: {error}; {where}") from error
    if model.digest != digest:
        found = model.digest[:12]
        raise UsageError(f"a worker loaded {name} with digest {found}, this run's model has {digest[:12]}; {where}")
    _LENT[digest] = model
    _LOADED.pop(digest, None)
    _LOADED[digest] = None
    for old in list(_LOADED)[:-_KEPT]:
        del _LOADED[old]
        _LENT.pop(old, None)
    return model


@contextmanager
def opened(
    name: str, digest: str, *, device: str | None = None, dtype: str | None = None, tokenizer: str | None = None
) -> Iterator[LanguageModel]:
    """`open_model`, for a worker that has one model after another: what was not open before is not kept."""
    known = digest in _LENT
    try:
        yield open_model(name, digest, device, dtype, tokenizer)
    finally:
        if not known:
            _LENT.pop(digest, None)


def loadable(model: LanguageModel) -> dict[str, str | None]:
    """What a worker loads the model by: its name, and that of the tokenizer that was named for it, if one was."""
    chosen = model.tokenizer_name
    return {"model": _in_full(model.name), "tokenizer": None if chosen is None else _in_full(chosen)}


def opens(model: LanguageModel) -> dict[str, Any]:
    """How a worker opens the model: `loadable`, the digest that it must have, the kind of device, and the dtype of the
    weights. Which GPU it is, is for the place to say where the worker lives."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {**loadable(model), "model_digest": model.digest, "device": model.device.type, "dtype": dtype}


def files_of(model: LanguageModel) -> dict[str, list[str]]:
    """The files that a worker reads to open the model, by the parts of `loadable`'s names that they lie at: a folder, a
    checkpoint, a recipe. What every installation has or fetches itself has none."""
    found: dict[str, list[str]] = {}
    for name in loadable(model).values():
        if name is not None:
            found |= _files(name)
    return found


def _files(name: str) -> dict[str, list[str]]:
    from .files.training_record import checkpoint_folder

    if (changed := parted(name)) is not None:
        return _files(changed.base) | {str(changed.path.absolute()): [str(changed.path.absolute())]}
    path = Path(name)
    if path.is_file():
        return {name: [name]}
    folder = path if path.is_dir() else checkpoint_folder(name)
    if not path.is_absolute() or folder is None:
        return {}
    return {name: [str(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name not in _NOT_READ]}


def _in_full(name: str) -> str:
    """A folder's or file's whole path, because a worker may have another working directory, also of a run whose
    checkpoint is named; another name as it is."""
    from .files.training_record import checkpoint_folder

    if (changed := parted(name)) is not None:
        return f"{_in_full(changed.base)}:{changed.path.absolute()}"
    there = Path(name).expanduser()
    return str(there.absolute()) if there.exists() or checkpoint_folder(name) is not None else name


def label(model: LanguageModel) -> str:
    """The model's name in tables: of a folder, a recipe or a run's checkpoint its last part, so that tables do not
    depend on where it lies."""
    return label_of(model.name)


def label_of(name: str) -> str:
    """What a model that was loaded as `name` is called in tables."""
    from .files.training_record import checkpoint_folder

    if (changed := parted(name)) is not None:
        return f"{label_of(changed.base)}:{changed.path.absolute().name}"
    in_folder = Path(name).is_dir() or checkpoint_folder(name) is not None
    return Path(name).absolute().name if in_folder else name
