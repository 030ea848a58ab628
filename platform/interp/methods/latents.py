"""Latents of a sparse autoencoder as a part that is replaced, with what the autoencoder does not reconstruct left alone.

    x' = x + sum over i of (f_i of the donor - f_i(x)) D_i        D_i: row i of the decoder

so that with a donor that holds the same latents nothing changes. All others of the site, `others`, is the complement:
x' = donor's x + sum over i of (f_i(x) - f_i of the donor) D_i. Latents of x' need not be those that were put in, because
decoder rows are not orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...core.errors import InputError
from ...models.access.edits import Edit
from ...models.parts.norms import wide
from .cuts import Rewrite
from .donor import Donor, put

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class Latents:
    """Some latents at a site (full name). autoencoder: its name among those of the step `sae` (`saes.tensors`); others:
    all that the site holds but these. Raises InputError where the autoencoder is missing or of a site of other width.
    """

    site: str
    autoencoder: str
    latents: tuple[int, ...]
    others: bool = False

    @property
    def held(self) -> str:
        """What a donor's values call all latents of the autoencoder, where they are not read from the site's."""
        return f"{self.site} latents of {self.autoencoder}"

    def sites(self, model: LanguageModel) -> list[str]:
        return [self.site]

    def size(self, model: LanguageModel) -> int:
        width = _width(model, self.site)
        return max(0, width - len(self.latents)) if self.others else len(self.latents)

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        dictionary, width, chosen = donor.autoencoder(self.autoencoder), _width(model, self.site), list(self.latents)
        if dictionary.width != width or max(chosen, default=0) >= dictionary.n_latents:
            raise InputError(
                f"the autoencoder {self.autoencoder!r} has {dictionary.n_latents} latents of {dictionary.width} channels "
                f"and is not that of latent {max(chosen, default=0)} at {self.site} of {model.name}, which has {width}"
            )

        def read(x: Tensor) -> Tensor:
            return dictionary.latents(x.to(wide(x.dtype)))[..., chosen]

        def replaced(x: Tensor) -> Tensor:
            mine = x[donor.rows]
            other, own = donor.at(self.site, mine), read(mine)
            if donor.values is None:
                given = own.new_zeros(())  # no latent, rather than those of the value zero
            elif self.held in donor.values:
                given = donor.values[self.held].to(own)[..., chosen]
            else:
                given = read(other)
            change = (given - own) @ dictionary.W_dec.to(own)[chosen]
            return put(x, donor.rows, other - change if self.others else mine + change)

        return [Rewrite(self.site, function=replaced)]


def _width(model: LanguageModel, site: str) -> int:
    """Channels of a site. Raises InputError where the model has no such site of one value per token and channel."""
    found = next((s for s in model.sites() if s.name == site), None)
    if found is None or found.constant or not found.editable or len(found.axes) != 1:
        raise InputError(f"{model.name} has no site {site!r} with one value per token and channel for latents to be at")
    return int(found.axes[0])
