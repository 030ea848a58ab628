"""Fitted vectors: a direction for each layer with what is known of it, as one value and as two files.

    vectors.json          what it is, where it comes from, and the numbers of each layer
    vectors.safetensors   the directions, float32, one `layer.N` each; its sha256 stands in the JSON

They belong to the model that they were fitted on: `check` refuses another one, or a site of another width, in one
sentence and before anything is computed. Reading a file runs no code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...core.errors import InputError, UsageError, suggest
from ...core.json_files import read_object

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..part import Part

FORMAT = "mplat-vectors-1"


@dataclass(frozen=True, eq=False)
class LayerVector:
    """direction: of the site's shape, length 1, from negative to positive. apart: how far the means of the two sets
    lie apart along it, in the site's units. rms: root of the mean square of the site's coordinates over the tokens
    that were looked at. auroc: of held-out groups, 0.5 by chance."""

    direction: Tensor
    apart: float
    rms: float
    auroc: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """method, site, at, seed, folds: how they were fitted. layers: layer -> vector, ascending. model_digest: the only
    model they are for. texts_digest: of the contrast; source: where it came from, in words. decided_on: digests of the
    questions that were used, which must not judge them.

    Raises UsageError where there is no layer, and for a direction that is not finite, has no length or another shape
    than that of the first layer."""

    method: str
    site: str
    at: str
    seed: int
    folds: int
    layers: Mapping[int, LayerVector]
    model_digest: str
    texts_digest: str
    source: str
    n_positive: int
    n_negative: int
    decided_on: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.layers:
            raise UsageError("vectors need at least one layer")
        shape = next(iter(self.layers.values())).direction.shape
        for layer, vector in self.layers.items():
            if not bool(torch.isfinite(vector.direction).all()):
                raise UsageError(f"the vector of layer {layer} holds values that are not finite")
            if vector.direction.shape != shape or not bool(vector.direction.any()):
                raise UsageError(f"the vector of layer {layer} has no length or another shape than {tuple(shape)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the site at one token."""
        return tuple(next(iter(self.layers.values())).direction.shape)

    @property
    def best_layer(self) -> int:
        """The layer of highest held-out AUROC; of equals the lowest."""
        return max(self.layers, key=lambda layer: (self.layers[layer].auroc, -layer))

    def at_layer(self, layer: int) -> LayerVector:
        """The vector of `layer`; UsageError where there is none."""
        if layer not in self.layers:
            raise UsageError(f"there is no vector of layer {layer}; {suggest(str(layer), map(str, self.layers))}")
        return self.layers[layer]

    def part(
        self, layer: int, strength: float, unit: str = "rms", *, operator: str = "add_vector", positions: str = "all"
    ) -> Part:
        """The vector of `layer` as a part of a recipe. operator: add_vector, whose strength counts in multiples of the
        site's RMS (unit rms) or of the distance between the means of both sets (unit value); or project_out, which
        takes a share of the direction out.

        Raises UsageError for a layer without a vector, and for an operator, unit or strength that cannot be.
        """
        from ..part import Part

        vector = self.at_layer(layer)
        if operator == "project_out":
            unit = "share"
        tensor = vector.direction * vector.apart if unit == "value" else vector.direction
        scales = (vector.rms,) if unit == "rms" else ()
        tensors = {"vector": tensor}
        return Part(operator, self.site, (layer,), strength, unit, tensors=tensors, positions=positions, scales=scales)

    def check(self, model: LanguageModel) -> None:
        """Raise InputError where these vectors are not for `model`."""
        if model.digest != self.model_digest:
            raise InputError(
                f"the vectors were fitted on the model with digest {self.model_digest[:12]}, and {model.name} has "
                f"{model.digest[:12]}; fit some for this model with `mplat steer vectors`"
            )
        shapes = {site.name: tuple(site.shape[2:]) for site in model.sites() if not site.constant}
        for layer in self.layers:
            name = f"blocks.{layer}.{self.site}"
            if name not in shapes:
                raise InputError(f"the vectors are of {name}, which {model.name} does not have")
            if shapes[name] != self.shape:
                raise InputError(f"the vectors have the shape {self.shape}, and {name} has {shapes[name]}")

    def save(self, path: str | Path) -> Path:
        """Write `path`, which ends in .json, and the directions beside it, in place of what may be there.

        Raises UsageError for another name or where it cannot be written, ClusterError where the disk is full.
        """
        from safetensors.torch import save

        from ...core.whole_files import publish_bytes, publish_json

        path = _json_name(path)
        tensors = {f"layer.{layer}": v.direction.contiguous().float() for layer, v in self.layers.items()}
        stored = publish_bytes(save(tensors), path.with_suffix(".safetensors"))
        publish_json(self.to_dict() | {"tensors_sha256": stored.sha256}, path)
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything but the directions."""
        values: dict[str, Any] = {"format": FORMAT}
        values |= {name: getattr(self, name) for name in _KINDS}
        numbers = {str(n): {name: getattr(v, name) for name in _NUMBERS} for n, v in self.layers.items()}
        return values | {"decided_on": list(self.decided_on), "shape": list(self.shape), "layers": numbers}

    @classmethod
    def load(cls, path: str | Path, model: LanguageModel | None = None) -> Vectors:
        """Read vectors; with `model` they must be for that model. Raises InputError naming the file and what is wrong:
        it is not whole, holds a value that is not finite, or is for another model or width."""
        path = Path(path)
        content = read_object(path)
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: not vectors of format {FORMAT}; make some with `mplat steer vectors`")
        for name, kind in _KINDS.items():
            if not isinstance(content.get(name), kind) or isinstance(content[name], bool):
                raise InputError(f"{path}: {name} is missing or has the wrong type ({content.get(name)!r})")
        decided_on = content.get("decided_on")
        if not isinstance(decided_on, list) or not all(isinstance(d, str) for d in cast("list[Any]", decided_on)):
            raise InputError(f"{path}: decided_on must be a list of digests of questions")
        try:
            vectors = cls(
                **{name: content[name] for name in _KINDS},
                layers=_layers(path, content),
                decided_on=tuple(cast("list[str]", decided_on)),
            )
            if model is not None:
                vectors.check(model)
        except (InputError, UsageError) as error:
            raise InputError(f"{path}: {error}") from error
        return vectors


_KINDS: dict[str, type] = {
    "method": str, "site": str, "at": str, "seed": int, "folds": int, "model_digest": str, "texts_digest": str,
    "source": str, "n_positive": int, "n_negative": int,
}  # fmt: skip
_NUMBERS = ("apart", "rms", "auroc")


def _json_name(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise UsageError(f"{path}: vectors are a JSON file with their directions beside it; give a name that ends in "
                         ".json")  # fmt: skip
    return path


def _layers(path: Path, content: Mapping[str, Any]) -> dict[int, LayerVector]:
    """The vectors of every layer, from the file beside; InputError without the name of the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from ...core.whole_files import sha256_of

    beside = path.with_suffix(".safetensors")
    try:
        data = beside.read_bytes()
        tensors = load(data)
    except OSError as error:
        raise InputError(f"the directions beside it, {beside.name}, cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        raise InputError(f"the directions beside it, {beside.name}, are damaged ({error})") from error
    if sha256_of(data) != content.get("tensors_sha256"):
        raise InputError(f"{beside.name} is not the file that belongs to it; its sha256 is another one")
    said: Any = content.get("layers")
    if not isinstance(said, dict):
        raise InputError("layers is missing or no object")
    layers: dict[int, LayerVector] = {}
    for name, numbers in cast("dict[str, Any]", said).items():
        if not re.fullmatch(r"\d+", name) or f"layer.{name}" not in tensors or not isinstance(numbers, dict):
            raise InputError(f"layer {name!r} is no layer with a direction in {beside.name}")
        values = [cast("dict[str, Any]", numbers).get(key) for key in _NUMBERS]
        if not all(isinstance(v, int | float) and v == v and abs(v) != float("inf") for v in values):
            raise InputError(f"layer {name}: {', '.join(_NUMBERS)} must be finite numbers, not {values}")
        layers[int(name)] = LayerVector(tensors[f"layer.{name}"], *(float(cast(float, v)) for v in values))
    return layers
