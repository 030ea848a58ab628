"""A sparse dictionary as it is used: latents of single vectors and their reconstruction, with the error left in place.

    z = (x - b_dec) W_enc + b_enc        f = relu(z), or z above a threshold, or the k largest      x' = f W_dec + b_dec

Names and shapes are those of SAELens' files, W_enc (C, F), b_enc (F,), W_dec (F, C), b_dec (C,), threshold (F,), so
that a file of these tensors is read by `steering.features.read_dictionary`; `k` marks one whose latents compete, which
that refuses. A state of several axes is one axis C here.

Orthonormal bases are dictionaries too (`basis_dictionary`), and with them every measure has its baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ....core.errors import InputError
from ..typed_tensors import eigen
from .kinds.topk import largest

_NEEDED, _KNOWN = ("W_enc", "b_enc", "W_dec", "b_dec"), ("threshold", "k")


@dataclass(frozen=True, eq=False)
class SparseDictionary:
    """See above; float32. threshold, k: None for relu; not both. Raises InputError for shapes that do not fit."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        n, width = (len(self.b_enc), len(self.b_dec)) if self.b_enc.ndim == self.b_dec.ndim == 1 else (-1, -1)
        wanted = {"W_enc": (width, n), "W_dec": (n, width), "threshold": (n,)}
        for name, shape in wanted.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InputError(f"sparse dictionary: {name} has shape {tuple(tensor.shape)}, which should be {shape}")
        if self.threshold is not None and self.k is not None:
            raise InputError("sparse dictionary: a threshold and a number k of latents; it has one of them or none")

    @property
    def n_latents(self) -> int:
        """F."""
        return len(self.b_enc)

    @property
    def width(self) -> int:
        """C."""
        return len(self.b_dec)

    def latents(self, x: Tensor) -> Tensor:
        """f (..., F) >= 0 of x (..., C)."""
        z = (x - self.b_dec.to(x)) @ self.W_enc.to(x) + self.b_enc.to(x)
        if self.k is not None:
            return largest(z, self.k)
        return z.relu() if self.threshold is None else torch.where(z > self.threshold.to(z), z, 0.0)

    def decoded(self, f: Tensor) -> Tensor:
        """x' (..., C) of f (..., F)."""
        return f @ self.W_dec.to(f) + self.b_dec.to(f)

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored."""
        found = {name: getattr(self, name) for name in _NEEDED}
        found |= {} if self.threshold is None else {"threshold": self.threshold}
        return found | ({} if self.k is None else {"k": torch.tensor(self.k)})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], what: str = "sparse dictionary") -> SparseDictionary:
        """The inverse of `tensors`. Raises InputError, naming `what`, where one is missing or not finite."""
        missing = [name for name in _NEEDED if name not in tensors]
        if missing:
            raise InputError(f"{what}: has no tensor {', '.join(missing)}")
        found = {name: tensors[name].float() for name in (*_NEEDED, "threshold") if name in tensors}
        bad = [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise InputError(f"{what}: {bad[0]} holds values that are not finite numbers")
        return cls(**found, k=int(tensors["k"]) if "k" in tensors else None)


def basis_dictionary(basis: Tensor, centre: Tensor, k: int) -> SparseDictionary:
    """The k largest coordinates of x - centre along orthonormal rows `basis` (C, C) or fewer, of either sign: a latent
    for each direction and one for its opposite, of which one at most is above 0."""
    both = torch.cat([basis, -basis]).float()
    return SparseDictionary(both.T.contiguous(), torch.zeros(len(both)), both, centre.float(), k=max(1, k))


def channels_dictionary(centre: Tensor, k: int) -> SparseDictionary:
    """The k channels that are farthest from their mean."""
    return basis_dictionary(torch.eye(len(centre)), centre, k)


def pca_dictionary(covariance: Tensor, centre: Tensor, k: int) -> SparseDictionary:
    """The k principal components that are farthest from their mean at a token; covariance (C, C)."""
    _, vectors = eigen(covariance.double())
    return basis_dictionary(vectors.T.flip(0), centre, k)
