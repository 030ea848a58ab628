"""Where steps look: sites named relative to their block (`mixer_out`, `mixer.delta`), checked against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.errors import UsageError, suggest

if TYPE_CHECKING:
    from ...models import LanguageModel
    from .step import Asked


#: what sites are called in pictures; others by their name
SITE_WORDS = {
    "mixer.delta": "the step size Delta",
    "mixer_out": "the mixer's output",
    "mlp_out": "the feed-forward part's output",
    "resid_post": "the residual stream after the block",
    "h": "the state, before it is read",
    "h_post": "the state",
    "conv_state": "the convolution's window",
    "h_post+conv_state": "the state and the convolution's window",
}


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

    Raises UsageError naming the nearest site for one that no block of this model has.
    """
    inside = dict.fromkeys(s.name.split(".", 2)[2] for s in model.sites() if s.name.startswith("blocks."))
    for name in (site, f"mixer.{site}"):
        if name in inside:
            return name
    raise UsageError(f"no site {site!r} in the blocks of model {model.name}; {suggest(site, inside, limit=40)}")


def relative_names(model: LanguageModel, sites: Sequence[str]) -> list[str]:
    """`relative_name` of each; one with a `?` at its end is left out where no block of this model has it."""
    names = []
    for site in sites:
        try:
            names.append(relative_name(model, site.removesuffix("?")))
        except UsageError:
            if not site.endswith("?"):
                raise
    return names


def places(model: LanguageModel, layers: Sequence[int], sites: Sequence[str], *, one_axis: bool = True) -> list[Place]:
    """Every site at every layer that has it, by layer, then in the order of `sites` (see `relative_names`).

    one_axis: only sites with one value per token and channel will do. Raises UsageError for sites that none of these
    layers has or that will not do, for one named twice, and for none.
    """
    names = relative_names(model, sites)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"sites {list(sites)}: name at least one site, and each of them once")
    known = {s.name: s for s in model.sites()}
    optional = {
        relative_name(model, s.removesuffix("?")) for s in sites if s.endswith("?") and relative_names(model, [s])
    }
    for name in names:
        having = [layer for layer in layers if f"blocks.{layer}.{name}" in known]
        if not having and name not in optional:
            raise UsageError(f"site {name!r}: none of the blocks {', '.join(map(str, layers))} has it; choose others")
    found = []
    for layer in layers:
        for name in names:
            site = known.get(f"blocks.{layer}.{name}")
            if site is None:
                continue
            shape = tuple(int(axis) for axis in site.axes)
            if site.constant or (one_axis and len(shape) != 1):
                held = f"{shape} values for all tokens" if site.constant else f"{shape} values per token"
                raise UsageError(f"site {name!r} has {held}; this step is for sites with one axis of channels")
            found.append(Place(layer, name, site.name, shape))
    if not found:
        raise UsageError(f"sites {list(sites)}: none of the blocks {', '.join(map(str, layers))} has one of them")
    return found


def rows_at(rows: Iterable[dict[str, Any]], layer: int, site: str) -> list[dict[str, Any]]:
    """Those of a table's rows that are of one site of one block."""
    return [row for row in rows if (row["layer"], row["site"]) == (layer, site)]


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
