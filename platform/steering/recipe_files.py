"""Recipes as JSON with their tensors in safetensors beside it, and as JSON alone for a process elsewhere.

    {"format": "mplat-recipe-2", "name": ..., "seed": ..., "model_digest": ..., "made_from": {...},
     "tensors_digest": ..., "parts": [{"operator": ..., ..., "tensors": {"vector": "0.vector"}}]}

A tensor is the name of an entry of the safetensors file, or, in JSON alone, its bytes in base64 with type and shape.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError, suggest
from ..core.json_files import Plain, read_json
from .part import Part
from .recipe import Recipe

_MAX_BYTES = 1 << 28  # one of JSON alone holds its tensors
FORMAT, FIRST_FORMAT = "mplat-recipe-2", "mplat-recipe-1"
_TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "operator": str, "site": str, "layers": list, "strength": (int, float), "unit": str, "channels": (list, type(None)),
    "options": dict, "positions": (str, list), "phase": str, "scales": list, "tensors": dict,
}  # fmt: skip
_HEAD: dict[str, type | tuple[type, ...]] = {
    "name": str, "seed": int, "model_digest": str, "made_from": dict, "parts": list,
    "tensors_digest": (str, type(None)),
}  # fmt: skip
_FIRST: dict[str, type | tuple[type, ...]] = {
    "variant": str, "operator": str, "site": str, "layer": int, "channels": list, "strength": (int, float),
    "seed": int, "model_digest": str,
}  # fmt: skip


def inline(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON alone."""
    return _described(recipe, [{name: _encoded(t) for name, t in part.tensors.items()} for part in recipe.parts], None)


def write(recipe: Recipe, path: Path) -> Path:
    """Write both files; the JSON names the digest of the other, so that a pair that does not belong is seen."""
    from safetensors.torch import save

    from ..core.whole_files import publish_bytes, publish_json

    stored = {
        f"{i}.{name}": tensor.detach().cpu().contiguous().clone()
        for i, part in enumerate(recipe.parts)
        for name, tensor in part.tensors.items()
    }
    digest = None
    if stored:
        content = save(stored)
        digest = hashlib.sha256(content).hexdigest()
        publish_bytes(content, beside(path))
    names = [{name: f"{i}.{name}" for name in part.tensors} for i, part in enumerate(recipe.parts)]
    publish_json(_described(recipe, names, digest), path)
    return path


def beside(path: Path) -> Path:
    """Where the tensors of the recipe at `path` lie."""
    return path.with_suffix(".safetensors")


def read(path: Path) -> Recipe:
    """The recipe at `path`. Raises InputError naming the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    values: Plain = read_json(path, limit=_MAX_BYTES)
    wanted = values.get("tensors_digest") if isinstance(values, dict) else None
    try:
        content = beside(path).read_bytes() if isinstance(wanted, str) else b""
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    if isinstance(wanted, str) and hashlib.sha256(content).hexdigest() != wanted:
        raise InputError(f"{beside(path)}: not the tensors of {path.name}; take both files from one place")
    try:
        return parse(values, load(content) if content else {}, str(path))
    except SafetensorError as error:
        raise InputError(f"{beside(path)}: damaged ({error})") from error


def parse(values: Any, tensors: Mapping[str, Tensor], source: str) -> Recipe:
    """The recipe in JSON `values` of either format, with tensors by name. Raises InputError naming `source`."""
    recorded: Plain = values
    if not isinstance(recorded, dict) or recorded.get("format") not in (FORMAT, FIRST_FORMAT):
        raise InputError(f"{source}: not a steering recipe of format {FORMAT}")
    try:
        return _first(recorded, source) if recorded["format"] == FIRST_FORMAT else _second(recorded, tensors, source)
    except UsageError as error:
        raise InputError(f"{source}: {error}") from error


def _second(values: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> Recipe:
    _check(values, _HEAD, source, also=("format",))
    made_from = values["made_from"]
    _check_questions(made_from.get("questions"), source)
    parts = tuple(_part(part, tensors, f"{source}: part {i}") for i, part in enumerate(values["parts"]))
    return Recipe(parts, values["model_digest"], values["name"], values["seed"], made_from)


def _part(values: Any, tensors: Mapping[str, Tensor], source: str) -> Part:
    if not isinstance(values, dict):
        raise InputError(f"{source}: not a part of a recipe")
    row = cast("dict[str, Any]", values)
    _check(row, _KINDS, source)
    if not all(type(n) is int for n in (*row["layers"], *(row["channels"] or ()))):
        raise InputError(f"{source}: layers and channels must be whole numbers")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in row["scales"]):
        raise InputError(f"{source}: scales must be numbers")
    found = {name: _decoded(entry, tensors, f"{source}: tensor {name!r}") for name, entry in row["tensors"].items()}
    channels: list[int] | None = row["channels"]
    positions: str | list[int] = row["positions"]
    return Part(
        row["operator"], row["site"], tuple(row["layers"]), float(row["strength"]), row["unit"],
        None if channels is None else tuple(channels), found, row["options"],
        tuple(positions) if isinstance(positions, list) else positions, row["phase"],
        tuple(map(float, row["scales"])),
    )  # fmt: skip


def _first(values: dict[str, Any], source: str) -> Recipe:
    """One operator at one layer; what scaled mixer_out had an operator of its own."""
    _check(values, _FIRST, source, also=("format", "decided_on"))
    if not all(isinstance(c, int) and not isinstance(c, bool) for c in values["channels"]):
        raise InputError(f"{source}: channels must be whole numbers")
    decided_on = values.get("decided_on")
    _check_questions(decided_on, source)
    if not 0 < values["strength"] <= 100:
        raise InputError(f"{source}: strength {values['strength']} is out of range; allowed: above 0 to 100")
    operator = "scale_channels" if values["operator"] == "scale_mixer_out" else values["operator"]
    part = Part(operator, values["site"], (values["layer"],), values["strength"], channels=tuple(values["channels"]))
    made_from = {} if decided_on is None else {"questions": decided_on}
    return Recipe((part,), values["model_digest"], values["variant"], values["seed"], made_from)


def _check(
    values: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]], source: str, also: tuple[str, ...] = ()
) -> None:
    for name in values:
        if name not in kinds and name not in also:
            raise InputError(f"{source}: unknown key {name!r}; {suggest(name, kinds)}")
    for name, kind in kinds.items():
        if name not in values or not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise InputError(f"{source}: {name} is missing or has the wrong type ({values.get(name)!r})")


def _check_questions(found: Any, source: str) -> None:
    given = cast("list[Any]", found if isinstance(found, list | tuple) else [None])
    if found is not None and not all(isinstance(d, str) for d in given):
        raise InputError(f"{source}: decided_on must be a list of digests of questions")


def _described(recipe: Recipe, tensors: list[dict[str, Any]], digest: str | None) -> dict[str, Any]:
    values = dataclasses.asdict(dataclasses.replace(recipe, parts=()))
    return {
        "format": FORMAT,
        "name": values["name"],
        "seed": values["seed"],
        "model_digest": values["model_digest"],
        "made_from": values["made_from"],
        "tensors_digest": digest,
        "parts": [part.described() | {"tensors": t} for part, t in zip(recipe.parts, tensors, strict=True)],
    }


def _encoded(tensor: Tensor) -> dict[str, Any]:
    plain = tensor.detach().cpu().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    kind = str(plain.dtype).removeprefix("torch.")
    return {"type": kind, "shape": list(plain.shape), "base64": base64.b64encode(content).decode("ascii")}


def _decoded(entry: Any, tensors: Mapping[str, Tensor], source: str) -> Tensor:
    if isinstance(entry, str):
        if entry not in tensors:
            raise InputError(f"{source}: {entry!r} is not stored beside the recipe")
        return tensors[entry]
    try:
        values = cast("dict[str, Any]", entry)
        kind, shape = _TYPES[values["type"]], [int(n) for n in values["shape"]]
        content = bytearray(base64.b64decode(values["base64"], validate=True))
        return torch.frombuffer(content, dtype=kind).reshape(shape).clone()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{source}: not a tensor ({error})") from error
