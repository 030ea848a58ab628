"""Which block of one model stands where another one's does, by relative depth, and which sites both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...models.lending import label
from ..engine.places import Place, places, relative_names

if TYPE_CHECKING:
    from ...models import LanguageModel


class Counterparts(NamedTuple):
    """A site of one model and the one of another that stands nearest to its depth; None where it has none that fits,
    and why not."""

    first: Place
    second: Place | None
    reason: str


def names_of(models: Sequence[LanguageModel]) -> list[str]:
    """What the models are called in tables; one that is called like an earlier one has its place behind the name."""
    labels = [label(model) for model in models]
    return [f"{name} ({i + 1})" if name in labels[:i] else name for i, name in enumerate(labels)]


def depth(layer: int, n_layers: int) -> float:
    """The middle of a block, over the number of blocks: 0 to 1."""
    return (layer + 0.5) / n_layers


def thinned(layers: Sequence[int], most: int) -> list[int]:
    """At most so many of the layers, at equal steps, the last one among them."""
    count = min(most, len(layers))
    return [layers[(i + 1) * len(layers) // count - 1] for i in range(count)]


def sites_of(model: LanguageModel, sites: Sequence[str]) -> list[Place]:
    """Those of the sites that blocks of this model have, with one axis of channels, by layer; perhaps none."""
    known = {site.name: site for site in model.sites()}
    names = dict.fromkeys(relative_names(model, [f"{site.removesuffix('?')}?" for site in sites]))
    found: list[Place] = []
    for layer in range(model.n_layers):
        for name in names:
            site = known.get(f"blocks.{layer}.{name}")
            if site is not None and site.editable and not site.constant and len(site.axes) == 1:
                found.append(Place(layer, name, site.name, (int(site.axes[0]),)))
    return found


def counterparts(
    model: LanguageModel, other: LanguageModel, layers: Sequence[int], sites: Sequence[str]
) -> list[Counterparts]:
    """For each site at each of these blocks of `model` that has it, the block of `other` nearest in depth that has it
    with one axis of channels; the lower one of two that are as near."""
    having = sites_of(other, sites)
    found: list[Counterparts] = []
    for place in places(model, layers, sites):
        there = [one for one in having if one.site == place.site]
        nearest = _nearest(place, model.n_layers, there, other.n_layers)
        reason = "" if nearest is not None else f"no block has {place.site} with one axis of channels"
        found.append(Counterparts(place, nearest, reason))
    return found


def one_to_one(
    first: Sequence[Place], n_first: int, second: Sequence[Place], n_second: int
) -> list[tuple[Place, Place]]:
    """Sites of two models with so many blocks, each once: those of the one with fewer of a site, each with the nearest
    of the other that is left."""
    found: list[tuple[Place, Place]] = []
    for site in dict.fromkeys(place.site for place in first):
        ours, theirs = ([place for place in side if place.site == site] for side in (first, second))
        turned = len(ours) > len(theirs)
        few, many = (theirs, list(ours)) if turned else (ours, list(theirs))
        sizes = (n_second, n_first) if turned else (n_first, n_second)
        for place in few:
            nearest = _nearest(place, sizes[0], many, sizes[1])
            assert nearest is not None
            many.remove(nearest)
            found.append((nearest, place) if turned else (place, nearest))
    return found


def _nearest(place: Place, n_layers: int, among: Sequence[Place], n_others: int) -> Place | None:
    at = depth(place.layer, n_layers)
    return min(among, key=lambda one: abs(depth(one.layer, n_others) - at), default=None)
