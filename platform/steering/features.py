"""A sparse dictionary from a file, and the parts of a recipe that act on some of its features.

Read are safetensors with the tensors W_enc, b_enc, W_dec, b_dec and, for jumprelu, threshold, as SAELens writes them:
W_enc (C, F), W_dec (F, C); a matrix that is the other way round is turned. F features of a site with C channels:

    f = act(W_enc (x - centre) + b_enc)        centre: b_dec, or 0 where a config.json beside says so

What a feature is must not depend on the others, because only the chosen ones go into a recipe. So a dictionary that
lets features compete for the k largest, or gates them by a second encoder, is refused, as is one whose inputs were
normalised by what the file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError
from ..core.json_files import read_object
from .part import Part, Phase

if TYPE_CHECKING:
    from ..models import LanguageModel

CONFIGS = ("cfg.json", "config.json")
_NEEDED, _KNOWN = ("W_enc", "W_dec", "b_enc", "b_dec"), ("threshold",)
_ARCHITECTURES = ("standard", "relu", "jumprelu")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """encoder, decoder (F, C), bias (F,), centre (C,) or None for 0; threshold (F,) for jumprelu, None for relu.

    Raises UsageError for shapes that do not belong together and values that are not finite."""

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    centre: Tensor | None = None
    threshold: Tensor | None = None
    source: str = "dictionary"

    def __post_init__(self) -> None:
        n, width = len(self.bias), self.decoder.shape[-1] if self.centre is None else len(self.centre)
        wanted = {"decoder": (n, width), "bias": (n,), "centre": (width,), "threshold": (n,), "encoder": (n, width)}
        for name, shape in wanted.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape:
                raise UsageError(f"{self.source}: {name} has shape {tuple(tensor.shape)}, which should be {shape}")
            if not bool(torch.isfinite(tensor).all()):
                raise UsageError(f"{self.source}: {name} holds values that are not finite numbers")

    @property
    def n_features(self) -> int:
        """F."""
        return len(self.encoder)

    @property
    def width(self) -> int:
        """C."""
        return self.encoder.shape[1]

    def latents(self, x: Tensor) -> Tensor:
        """f (..., F) of x (..., C), in float64."""
        x = x.double() if self.centre is None else x.double() - self.centre.double()
        z = x @ self.encoder.double().T + self.bias.double()
        return z.relu() if self.threshold is None else torch.where(z > self.threshold.double(), z, 0.0)

    def part(
        self,
        model: LanguageModel,
        site: str,
        layer: int,
        features: Sequence[int],
        strength: float,
        *,
        values: Sequence[float] | None = None,
        positions: str = "all",
        phase: Phase = "both",
    ) -> Part:
        """The part that multiplies `features` at blocks.{layer}.{site} by `strength`; with `values` it moves them there
        by that share (`clamp_feature`).

        The dictionary of a site with several axes, such as a state, has them flattened into one. Raises UsageError for
        a feature that does not exist or is named twice, InputError where the site is not as wide as the dictionary.
        """
        chosen = list(features)
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= f < self.n_features for f in chosen):
            raise UsageError(f"{self.source} has features 0 to {self.n_features - 1}, each named once; not {chosen}")
        full = f"blocks.{layer}.{site}"
        shape = next((tuple(int(n) for n in one.axes) for one in model.sites() if one.name == full), ())
        if prod(shape) != self.width or not shape:
            raise InputError(
                f"{self.source} is of a site with {self.width} channels, and {full} of {model.name} has "
                f"{' x '.join(map(str, shape)) or 'none'}"
            )
        found = {"encoder": self.encoder[chosen], "bias": self.bias[chosen], "decoder": self.decoder[chosen]}
        found |= {} if self.centre is None else {"centre": self.centre}
        found |= {} if self.threshold is None else {"threshold": self.threshold[chosen]}
        if values is not None:
            found["values"] = torch.as_tensor(values, dtype=torch.float64)
        operator = "scale_feature" if values is None else "clamp_feature"
        axes = {"encoder": (len(chosen), *shape), "decoder": (len(chosen), *shape), "centre": shape}
        tensors = {name: t.reshape(axes.get(name, t.shape)).contiguous().clone() for name, t in found.items()}
        part = Part(operator, site, (layer,), strength, tensors=tensors, positions=positions, phase=phase)
        part.check(model)
        return part


def read_dictionary(path: str | Path) -> Dictionary:
    """The dictionary of a safetensors file, with what a cfg.json or config.json beside it says of it.

    Raises InputError where it is no such file, holds values that are not finite, or is a kind that single features
    cannot be taken from.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise InputError(f"{path}: damaged, or no safetensors file ({error})") from error
    missing = [name for name in _NEEDED if name not in tensors]
    if missing:
        raise InputError(f"{path}: a dictionary has {', '.join(_NEEDED)}; {', '.join(missing)} missing")
    unknown = sorted(set(tensors) - {*_NEEDED, *_KNOWN})
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]} is no part of a relu or jumprelu dictionary, whose features stand alone"
        )
    said = _config(path)
    jumps = _check_config(path, said, "threshold" in tensors)
    n, width = len(tensors["b_enc"]), len(tensors["b_dec"])
    centred = said.get("apply_b_dec_to_input", True)
    try:
        return Dictionary(
            _features_first(tensors["W_enc"], n, width, files_have_them_last=True),
            tensors["b_enc"],
            _features_first(tensors["W_dec"], n, width, files_have_them_last=False),
            tensors["b_dec"] if centred else None,
            tensors["threshold"] if jumps else None,
            str(path),
        )
    except UsageError as error:
        raise InputError(str(error)) from error


def _features_first(matrix: Tensor, n: int, width: int, *, files_have_them_last: bool) -> Tensor:
    """`matrix` as (F, C). Where F is C, its shape does not say which way round it is, and the format does; a shape that
    is neither is left for `Dictionary` to refuse."""
    turned = files_have_them_last if n == width else tuple(matrix.shape) == (width, n)
    return matrix.T.contiguous() if turned and matrix.ndim == 2 else matrix


def _config(path: Path) -> Mapping[str, Any]:
    for name in CONFIGS:
        beside = path.with_name(name)
        if beside.is_file():
            return read_object(beside)
    return {}


def _check_config(path: Path, said: Mapping[str, Any], has_threshold: bool) -> bool:
    """Whether it is a jumprelu; InputError for another kind than relu and jumprelu."""
    kind = said.get("architecture", "jumprelu" if has_threshold else "standard")
    if kind not in _ARCHITECTURES or said.get("activation_fn_str", said.get("activation_fn", "relu")) != "relu":
        raise InputError(
            f"{path}: a dictionary of kind {kind!r} with activation "
            f"{said.get('activation_fn_str', said.get('activation_fn', 'relu'))!r} is not read; features can be taken "
            "alone out of relu and jumprelu dictionaries"
        )
    normalised = said.get("normalize_activations", "none")
    if normalised not in ("none", None, False):
        raise InputError(f"{path}: its inputs were normalised ({normalised}); fold that into its weights first")
    if (kind == "jumprelu") != has_threshold:
        raise InputError(f"{path}: a jumprelu dictionary has a threshold for each feature, and no other kind has")
    return has_threshold
