"""Edits along directions of a site: scaling a subspace, and scaling or setting features of a sparse dictionary.

Both add a difference to the site's tensor and leave the rest of it as it is: what lies outside of a subspace, and what
a dictionary does not reconstruct. The difference is computed in float32 or wider, with the site's (selected) channels,
and for states their coordinates too, as one axis C of `n` values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from ..parts.norms import wide
from .edits import Edit, Value, as_number, as_tensor

_ACTIVATIONS = ("relu", "jumprelu")
#: singular values below this share of the largest one are none
_RANK_TOLERANCE = 1e-9


def _flat(edit: Edit, x: Tensor, width: int, what: str) -> Tensor:
    """x (B, P, ...) as (B, P, C) in float32 or wider. Raises UsageError where C is not `width`."""
    flat = x.flatten(2).to(wide(x.dtype))
    if flat.shape[2] != width:
        raise UsageError(f"{edit}: {what} has a width of {width}, the selected part of the site {flat.shape[2]}")
    return flat


def _rows(value: Value, what: str) -> Tensor:
    """`value` as (k, C); one direction (C,) may do without the first axis."""
    tensor = as_tensor(value, what)
    tensor = tensor[None] if tensor.ndim == 1 else tensor
    if tensor.ndim < 2 or not tensor.numel():
        raise UsageError(f"{what} is a matrix (k, C) of one or more rows, not {tuple(tensor.shape)}")
    return tensor


@dataclass(frozen=True, eq=False)
class ScaleSubspace(Edit):
    """x -> x + (factor - 1) P x with P the orthogonal projector on the span of the basis' rows; factor 0 removes it.

    basis (k, C), its rows of any length and angle, or (k, C, N) for a state. Raises UsageError where they are linearly
    dependent or of another width than the selected part of the site.
    """

    kind: ClassVar[str] = "scale_subspace"
    basis: Value
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "basis", _rows(self.basis, "ScaleSubspace: basis"))
        object.__setattr__(self, "factor", as_number(self.factor, "ScaleSubspace: factor"))
        self.directions  # noqa: B018  (a basis that is none is an error where it is written)

    @cached_property
    def directions(self) -> Tensor:
        """Orthonormal rows (k, C) that span what the basis spans, in float64."""
        basis: Tensor = self.basis  # type: ignore[assignment]
        rows = basis.detach().flatten(1).double()
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        sizes = torch.linalg.svdvals(rows)
        if len(rows) > rows.shape[1] or float(sizes[-1]) <= _RANK_TOLERANCE * float(sizes[0]):
            raise UsageError(f"ScaleSubspace: the {len(rows)} rows of the basis are linearly dependent: leave some out")
        return torch.linalg.qr(rows.T)[0].T.contiguous()

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        if self.factor == 1.0:
            return x
        flat = _flat(self, x, self.directions.shape[1], "the basis")
        directions = self.directions.to(flat)
        return (flat + (self.factor - 1.0) * (flat @ directions.T) @ directions).to(x.dtype).view_as(x)


@dataclass(frozen=True, eq=False)
class Features(Edit):
    """Scales features of a sparse dictionary, x -> x + (factor - 1) f D, or sets them, x -> x + (value - f) D.

        f = act(E (x - centre) + bias)        act: relu, or jumprelu: z where z > threshold, else 0

    encoder E and decoder D (k, C), bias and threshold (k,), centre (C,): of the k features that are edited; others of
    the same dictionary are not needed. factor, value: a number or (k,). Only the difference is added, so that what the
    dictionary does not reconstruct stays. Factor 1 with value None is the identity. Raises UsageError for shapes that
    do not fit each other or the site, for a factor beside a value, and for a jumprelu without threshold.
    """

    kind: ClassVar[str] = "features"
    encoder: Value
    bias: Value
    decoder: Value
    centre: Value | None = None
    threshold: Value | None = None
    activation: Literal["relu", "jumprelu"] = "relu"
    factor: Value = 1.0
    value: Value | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder, decoder = (_rows(getattr(self, name), f"Features: {name}") for name in ("encoder", "decoder"))
        if encoder.shape != decoder.shape:
            raise UsageError(
                f"Features: encoder {tuple(encoder.shape)} and decoder {tuple(decoder.shape)} are not of one shape "
                "(features, channels)"
            )
        if self.activation not in _ACTIVATIONS:
            raise UsageError(f"Features: activation {self.activation!r}; {suggest(self.activation, _ACTIVATIONS)}")
        if (self.threshold is None) == (self.activation == "jumprelu"):
            raise UsageError("Features: a threshold goes with activation jumprelu, and jumprelu with a threshold")
        found = {"encoder": encoder, "decoder": decoder}
        numbers = ("bias", "threshold", "factor", "value")
        for name in (*numbers, "centre"):
            given = getattr(self, name)
            if given is None:
                continue
            tensor = as_tensor(given, f"Features: {name}")
            whole = tuple(encoder.shape[:1] if name in numbers else encoder.shape[1:])
            if tuple(tensor.shape) != whole and (tensor.ndim or name == "centre"):
                raise UsageError(f"Features: {name} has shape {tuple(tensor.shape)}, which should be {whole}")
            found[name] = tensor
        if self.value is not None and not bool((found["factor"] == 1).all()):
            raise UsageError("Features: give a factor or a value, not both")
        for name, tensor in found.items():
            object.__setattr__(self, name, tensor)

    def latents(self, x: Tensor) -> Tensor:
        """f (..., k) of x (..., C), in float32 or wider."""
        x = x.to(wide(x.dtype))
        encoder, bias = self._tensor("encoder", x).flatten(1), self._tensor("bias", x)
        x = x if self.centre is None else x - self._tensor("centre", x).flatten()
        z = x @ encoder.T + bias
        if self.threshold is None:
            return z.relu()
        return torch.where(z > self._tensor("threshold", x), z, 0.0)

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        if self.value is None and bool((self._tensor("factor", x) == 1).all()):
            return x
        decoder = self._tensor("decoder", x).flatten(1)
        flat = _flat(self, x, decoder.shape[1], "the dictionary")
        f = self.latents(flat)
        change = (self._tensor("factor", flat) - 1.0) * f if self.value is None else self._tensor("value", flat) - f
        return (flat + change @ decoder.to(flat)).to(x.dtype).view_as(x)

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        tensor: Tensor = getattr(self, name)
        return tensor.to(like) if like.is_floating_point() else tensor.to(like.device)
