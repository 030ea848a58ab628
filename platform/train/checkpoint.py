"""Checkpoints that are whole or ignored.

A checkpoint is a folder `step-00000250/` with model.safetensors, optimizer.safetensors (AdamW's moments flattened to
`<parameter>/<name>`, and the random generators' states as `rng/<device>`), trainer.json (step, tokens, sampler state,
config, ...), config.json (the model's shape, so that `models.load` reads the folder) and manifest.json (size and sha256
of the others). It is written into a hidden folder beside its place,
synced, and renamed; a crash at any moment leaves either the whole checkpoint or none. A folder whose manifest does not
hold is reported and skipped, and the one before it is used. No pickle anywhere.

What several processes trained is saved whole, so that any number of processes can go on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.inside import leads_down
from ..core.json_files import read_object
from ..models.model_config import ModelConfig
from .parallel import as_share, whole

_MODEL, _OPTIMIZER, _TRAINER, _MANIFEST = "model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"
_SHAPE = "config.json"  # checkpoints of earlier versions have none
FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """The state of a moment, copied into the CPU's memory: training may go on while it is written."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    trainer: dict[str, Any]
    shape: dict[str, Any] | None  # config.json

    @classmethod
    def take(cls, model: nn.Module, optimizer: torch.optim.Optimizer, trainer: dict[str, Any]) -> Snapshot:
        """Of a model that is spread in shares every process has to take one; each is of the whole."""
        shape = getattr(model, "config", None)
        return cls(
            _copies(_model_tensors(model)),
            _copies(_optimizer_tensors(model, optimizer)) | _rng_tensors(),
            trainer,
            shape.to_hf() if isinstance(shape, ModelConfig) else None,
        )

    def write(self, folder: Path) -> Path:
        """Write checkpoint `step-<trainer["step"]>` under `folder` and return its path."""
        final = folder / f"step-{self.trainer['step']:08d}"
        part = folder / f".{final.name}.{uuid.uuid4().hex}.part"
        part.mkdir(parents=True)
        _write_tensors(part / _MODEL, self.model)
        _write_tensors(part / _OPTIMIZER, self.optimizer)
        _write_json(part / _TRAINER, {"format": FORMAT} | self.trainer)
        names = [_MODEL, _OPTIMIZER, _TRAINER]
        if self.shape is not None:
            _write_json(part / _SHAPE, self.shape)
            names.append(_SHAPE)
        files = {name: _fingerprint(part / name) for name in names}
        _write_json(part / _MANIFEST, {"format": FORMAT, "files": files})
        for name in (*files, _MANIFEST):
            _sync(part / name)
        _sync(part)
        if final.exists():  # the same step again, after a resume from an older checkpoint: the new one takes its place
            os.rename(final, folder / f".{final.name}.{uuid.uuid4().hex}.part")
        os.rename(part, final)
        _sync(folder)
        return final


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, trainer: dict[str, Any]) -> Path:
    """Write checkpoint `step-<trainer["step"]>` under `folder` and return its path."""
    return Snapshot.take(model, optimizer, trainer).write(folder)


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint into model, optimizer and random generators; returns what trainer.json says.

    Raises InputError where the checkpoint is damaged or belongs to a model of another shape.
    """
    trainer = read_trainer(path)
    try:
        weights, state = load_file(path / _MODEL), load_file(path / _OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path}: cannot be read ({error}); use an older one") from error
    ours = _model_tensors(model)
    wrong = sorted(
        n
        for n in ours.keys() | weights.keys()
        if n not in ours or n not in weights or ours[n].shape != weights[n].shape
    )
    if wrong:
        raise InputError(
            f"checkpoint {path} belongs to another model: {wrong[0]} and {len(wrong) - 1} other tensors differ; "
            "use the model settings it was trained with"
        )
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(as_share(weights[name], tensor))
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        entries = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if entries:
            optimizer.state[parameter] = {key: as_share(value, parameter) for key, value in entries.items()}
    torch.set_rng_state(state["rng/cpu"])
    if "rng/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng/cuda"])
    return trainer


def latest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint under `folder`; damaged ones are named to `warn` and passed over."""
    for path in reversed(steps(folder)):
        fault = damage(path)
        if fault is None:
            return path
        warn(f"checkpoint {path} is ignored: {fault}")
    return None


def steps(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name) and p.is_dir())
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint folder's name says."""
    return int(path.name.removeprefix("step-"))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None where every file is there with the recorded digest."""
    try:
        files = read_object(path / _MANIFEST)["files"]
        for name in dict.fromkeys((_MODEL, _OPTIMIZER, _TRAINER, *files)):
            if not leads_down(name):
                return f"{_MANIFEST} names a file outside of its folder"
            if not (path / name).is_file():
                return f"{name} is missing"
            if _fingerprint(path / name) != files[name]:
                return f"{name} differs from its manifest"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read"
    except (InputError, KeyError, TypeError):
        return f"{_MANIFEST} is damaged"
    return None


def read_trainer(path: Path) -> dict[str, Any]:
    """trainer.json of a checkpoint. Raises InputError where the checkpoint is damaged or of another format."""
    fault = damage(path)
    if fault is not None:
        raise InputError(f"checkpoint {path} cannot be used: {fault}; use another one, or --resume auto")
    trainer = read_object(path / _TRAINER)
    if trainer.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} has format {trainer.get('format')}, not {FORMAT}; start anew with --fresh")
    return trainer


def prune(folder: Path, keep_latest_k: int, keep: set[int]) -> None:
    """Delete all but the newest `keep_latest_k` checkpoints and those whose step is in `keep`."""
    for path in steps(folder)[:-keep_latest_k]:
        if step_of(path) not in keep:
            doomed = folder / f".{path.name}.{uuid.uuid4().hex}.part"
            os.rename(path, doomed)  # never a half-deleted folder under a checkpoint's name
            _remove(doomed)


def sweep(folder: Path) -> None:
    """Delete what interrupted writers left. Call only while holding the run's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if re.fullmatch(r"\.step-\d+\.[0-9a-f]{32}\.part", path.name):
                _remove(path)


def _remove(folder: Path) -> None:
    """Delete a folder; of a link to one the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter once (tied weights share a name) and every buffer that is part of the model's state."""
    state_names = set(model.state_dict())
    buffers = {name: tensor for name, tensor in model.named_buffers() if name in state_names}
    return {name: p.detach() for name, p in model.named_parameters()} | buffers


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    flat = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            flat[f"{name}/{key}"] = value.detach()
    return flat


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor).to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _rng_tensors() -> dict[str, Tensor]:
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # the library hides a full disk in its message
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
