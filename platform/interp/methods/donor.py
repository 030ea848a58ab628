"""What is put in the place of parts of a model: other values, at the same positions, in some rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.edits import Edit
    from .sae.dictionary import SparseDictionary


class SiteDictionary(NamedTuple):
    """An autoencoder and the site (full name) that it is of."""

    site: str
    dictionary: SparseDictionary


@dataclass(frozen=True)
class Donor:
    """Where values come from. values: by site (B, T, ...), or (1, 1, ...) for the same at all tokens; None: zeros.
    index (R,): which of its rows goes into row r of the run that is edited; rows (R,) bool: where the part is replaced.
    autoencoders: by name, those by which latents are read.
    """

    values: Mapping[str, Tensor] | None
    index: Tensor
    rows: Tensor
    autoencoders: Mapping[str, SiteDictionary] = field(default_factory=dict[str, "SiteDictionary"])

    def at(self, site: str, like: Tensor) -> Tensor:
        """The values of `site` for the rows that are replaced, as many as `like`'s (n, T, ...)."""
        if self.values is None:
            return torch.zeros_like(like)
        value = self.values[site].to(like.dtype)
        value = value[self.index[self.rows]] if len(value) > 1 else value
        return value.expand(like.shape)


class Part(Protocol):
    """A replaceable part of a model, a frozen dataclass of names and numbers, so that JSON can hold it."""

    def sites(self, model: LanguageModel) -> list[str]:
        """Full names of the sites whose values a donor has to hold."""
        ...

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        """The edits of one forward pass that put the donor's values in the part's place."""
        ...

    def size(self, model: LanguageModel) -> int:
        """How many numbers per token it is."""
        ...


def put(x: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    """x (R, ...) with `part` in those of its rows (R,) bool that are chosen."""
    return x.index_copy(0, rows.nonzero()[:, 0], part.to(x.dtype))
