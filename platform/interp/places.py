"""Where steps look: sites named relative to their block (`mixer_out`, `mixer.delta`), checked against the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UsageError, suggest

if TYPE_CHECKING:
    from ..models import LanguageModel
    from .registry import Asked


class Place(NamedTuple):
    """A site of one block. name: full, for captures and edits. shape: of one token's value, e.g. (256,)."""

    layer: int
    site: str
    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Length of the first axis after (batch, time)."""
        return self.shape[0]


def relative_name(model: LanguageModel, site: str) -> str:
    """`site` as it is called inside a block; `delta` may be written for `mixer.delta`.

    Raises UsageError naming the nearest site for one that this model's blocks do not have.
    """
    inside = [s.name.removeprefix("blocks.0.") for s in model.sites() if s.name.startswith("blocks.0.")]
    for name in (site, f"mixer.{site}"):
        if name in inside:
            return name
    raise UsageError(f"no site {site!r} in the blocks of model {model.name}; {suggest(site, inside, limit=40)}")


def places(model: LanguageModel, layers: Sequence[int], sites: Sequence[str], *, one_axis: bool = True) -> list[Place]:
    """Every site at every layer, by layer, then in the order of `sites`.

    one_axis: only sites with one value per token and channel will do. Raises UsageError for sites that the model does
    not have or that will not do, for one named twice, and for none.
    """
    names = [relative_name(model, site) for site in sites]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"sites {list(sites)}: name at least one site, and each of them once")
    shapes = {s.name: s.shape[2:] for s in model.sites()}
    found = []
    for layer in layers:
        for name in names:
            full = f"blocks.{layer}.{name}"
            shape = tuple(int(axis) for axis in shapes[full])
            if one_axis and len(shape) != 1:
                raise UsageError(
                    f"site {name!r} has {shape} values per token; this step is for sites with one axis of channels"
                )
            found.append(Place(layer, name, full, shape))
    return found


def check_sites(asked: Asked) -> None:
    """`Step.check` of a step whose settings have `sites` with one axis of channels."""
    places(asked.model, asked.layers, asked.settings.sites)


def check_layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Ascending block numbers; None is all. Raises UsageError for one that does not exist or is named twice."""
    if layers is None:
        return tuple(range(n_layers))
    if not layers or len(set(layers)) < len(layers):
        raise UsageError(f"layers {list(layers)}: name at least one block, and each of them once")
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise UsageError(f"there is no block {layer}; this model has blocks 0 to {n_layers - 1}")
    return tuple(sorted(layers))
