"""Latents of a sparse autoencoder as a part that is replaced; what the autoencoder does not reconstruct stays.

    x' = x + sum over i of (f_i of the donor - f_i(x)) D_i        D_i: row i of the decoder

so that with a donor that holds the same latents nothing changes. All others of the site, `others`, is the complement:
x' = donor's x + sum over i of (f_i(x) - f_i of the donor) D_i. Latents of x' need not be those that were put in,
because decoder rows are not orthogonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...core.errors import InputError
from ...models.access.edits import Edit
from ...models.parts.norms import wide
from .cuts import Rewrite
from .donor import Donor, SiteDictionary, put
from .sae.splicing import packed, unpacked

if TYPE_CHECKING:
    from ...models import LanguageModel
    from .sae.dictionary import SparseDictionary


@dataclass(frozen=True)
class Latents:
    """Some latents at a site (full name). autoencoder: its name among those of the step `sae` (`saes.tensors`); others:
    all that the site holds but these. Raises InputError where the autoencoder is missing or of another site or model.
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

    def dictionary(self, model: LanguageModel, autoencoders: Mapping[str, SiteDictionary]) -> SparseDictionary:
        """The autoencoder that it is of, one of these. Raises InputError where there is none that fits."""
        if self.autoencoder not in autoencoders:
            held = ", ".join(autoencoders) or "none"
            raise InputError(f"the autoencoder {self.autoencoder!r} of a latent is missing (known: {held}); run `sae`")
        site, dictionary = autoencoders[self.autoencoder]
        width, last = _width(model, self.site), max(self.latents, default=0)
        if (site, dictionary.width) != (self.site, width) or last >= dictionary.n_latents:
            raise InputError(
                f"the autoencoder {self.autoencoder!r} has {dictionary.n_latents} latents of the {dictionary.width} "
                f"channels of {site}: there is no latent {last} of the {width} of {self.site} of model {model.name}"
            )
        return dictionary

    def edits(self, model: LanguageModel, donor: Donor) -> list[Edit]:
        dictionary, chosen = self.dictionary(model, donor.autoencoders), list(self.latents)

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


def packed_all(autoencoders: Mapping[str, SiteDictionary]) -> dict[str, Any]:
    """As plain JSON, for the arguments of a batch function."""
    return {name: {"site": of.site, "dictionary": packed(of.dictionary)} for name, of in autoencoders.items()}


def unpacked_all(content: Mapping[str, Any]) -> dict[str, SiteDictionary]:
    """The inverse of `packed_all`."""
    return {name: SiteDictionary(v["site"], unpacked(v["dictionary"])) for name, v in content.items()}


def _width(model: LanguageModel, site: str) -> int:
    """Channels of a site. Raises InputError where the model has no such site of one value per token and channel."""
    found = next((s for s in model.sites() if s.name == site), None)
    if found is None or found.constant or not found.editable or len(found.axes) != 1:
        raise InputError(f"{model.name} has no site {site!r} with one value per token and channel for latents to be at")
    return int(found.axes[0])
