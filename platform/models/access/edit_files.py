"""Storing edits: `edits.json` says what they are, `edits.safetensors` holds their tensors. Never pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, suggest
from ...core.json_files import read_object
from .edit_kinds import KINDS
from .edits import Edit

_FORMAT = "mplat-edits-1"


def save_edits(folder: str | Path, edits: Sequence[Edit]) -> Path:
    """Write `edits` into `folder` (made if missing) so that `load_edits` gives equal ones back, bit for bit."""
    from safetensors.torch import save

    from ...core.whole_files import publish_bytes, publish_json

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    described: list[dict[str, Any]] = []
    for i, edit in enumerate(edits):
        row: dict[str, Any] = {"kind": edit.kind}
        for field in dataclasses.fields(edit):
            value = getattr(edit, field.name)
            if isinstance(value, Tensor):
                key = f"{i}.{field.name}"
                tensors[key] = value.detach().cpu().contiguous().clone()
                row[field.name] = {"tensor": key}
            else:
                row[field.name] = list(value) if isinstance(value, (tuple, list)) else value
        described.append(row)
    publish_bytes(save(tensors or {"none": torch.zeros(0)}), target / "edits.safetensors")
    publish_json({"format": _FORMAT, "edits": described}, target / "edits.json")
    return target


def load_edits(folder: str | Path) -> list[Edit]:
    """Read what `save_edits` wrote. Raises InputError naming the file and what is wrong with it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, beside = Path(folder) / "edits.json", Path(folder) / "edits.safetensors"
    for file in (path, beside):
        if not file.is_file():
            raise InputError(f"{folder}: no stored edits, {file.name} is missing")
    content = read_object(path)
    try:
        tensors = load_file(beside)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{beside}: damaged ({error})") from error
    if content.get("format") != _FORMAT or not isinstance(content.get("edits"), list):
        raise InputError(f"{path}: not a file of format {_FORMAT}")
    edits: list[Edit] = []
    for i, row in enumerate(content["edits"]):
        kind = row.get("kind") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"{path}: edit {i} has unknown kind {kind!r}; {suggest(str(kind), KINDS)}")
        known = {f.name for f in dataclasses.fields(KINDS[kind])}
        values = {k: v for k, v in row.items() if k != "kind"}
        for name, value in values.items():
            if name not in known:
                raise InputError(f"{path}: edit {i} has unknown field {name!r}; {suggest(name, known)}")
            if isinstance(value, dict):
                if not isinstance(value.get("tensor"), str) or value["tensor"] not in tensors:
                    raise InputError(f"{path}: edit {i} needs tensor {value.get('tensor')!r}, which is not stored")
                values[name] = tensors[value["tensor"]]
        try:
            edits.append(KINDS[kind](**values))
        except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path}: edit {i} is not usable ({error})") from error  # as Python and torch refuse them
    return edits
