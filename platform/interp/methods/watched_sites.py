"""The sites that `diagnostics` looks at: those asked for, and Delta, B, C and the state of every recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engine.places import places
from .recurrences import LayerRecurrence, recurrences_of

if TYPE_CHECKING:
    from ...models import LanguageModel

QUANTITIES = ("delta", "B", "C")


def watched_sites(model: LanguageModel, layers: Sequence[int], sites: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Full name -> (block, name inside of it)."""
    found = {place.name: (place.layer, place.site) for place in places(model, layers, sites, one_axis=False)}
    known = {site.name for site in model.sites()}
    for layer in layers:
        for decay in recurrences_of(model, layer):
            names = [*selective_sites(decay).values(), f"{decay.prefix}h"]
            found |= {name: (layer, name.split(".", 2)[2]) for name in names if name in known}
    return dict(sorted(found.items(), key=lambda entry: entry[1][0]))  # stable: by block


def selective_sites(decay: LayerRecurrence) -> dict[str, str]:
    """Quantity -> full name, of Delta, B and C as far as they are no constants."""
    return {q: decay.name(q) for q in QUANTITIES if isinstance(getattr(decay.of, q), str)}
