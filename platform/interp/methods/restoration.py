"""What can be restored: sites of a block, several of them at once, and the whole state that a layer carries.

A name is a site relative to its block (`resid_post`, `mixer_out`, `mlp_out`, `mixer.x`; `delta` may be written for
`mixer.delta`), several joined by `+`, or `state`: everything that the layer passes on to later tokens, whatever its
architecture (h, window, keys and values, records of a long convolution).

Three mechanisms, which `sweep` knows: a residual stream enters the next block; a post-step state (`h_post`,
`conv_state`, `state`) is put into the state from which the run continues at the next token, which is what editing a
generation cache means; everything else is an edit at its position in the block's own forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.errors import UsageError
from ..engine.places import check_layers, relative_name
from .arguments import integers

if TYPE_CHECKING:
    from ...models import LanguageModel

#: what is traced where no sites are named, as far as the model has it
SITES = (
    "resid_post", "mixer_out", "h", "h_post", "conv_state", "h_post+conv_state", "delta", "B", "C", "gate", "y",
)  # fmt: skip
STATE = "state"
RESIDUAL = {"resid_pre": 0, "resid_post": 1}  # the block whose input it is, counted from its own
POST_STEP = {"mixer.h_post": "h", "mixer.conv_state": "conv"}  # site -> name in the carried state


@dataclass(frozen=True)
class Restoration:
    """One kind of restoration in one model.

    name: as asked for. parts: its sites, relative to a block. layers: the blocks that have all of them. entries: names
    in the carried state where it is post-step, else None; () stands for all of them.
    """

    name: str
    parts: tuple[str, ...]
    layers: frozenset[int]
    entries: tuple[str, ...] | None

    @property
    def post_step(self) -> bool:
        """Whether it is felt from the next position on only."""
        return self.entries is not None

    @property
    def residual(self) -> int | None:
        """0 or 1 for the input or the output of a block, None for anything inside."""
        return RESIDUAL.get(self.parts[0]) if len(self.parts) == 1 else None

    def window(self, layer: int, width: int, n_layers: int) -> tuple[int, ...]:
        """The layers restored together around `layer`: max(0, l - w//2) to min(L, l - (-w//2)) - 1, as ROME has it.

        The residual stream is restored after one layer only: it holds what all layers below wrote.
        """
        if self.residual is not None:
            return (layer,)
        around = range(max(0, layer - width // 2), min(n_layers, layer - (-width // 2)))
        return tuple(i for i in around if i in self.layers)


def restorations(
    model: LanguageModel, sites: Sequence[str] | None, layers: Sequence[int] | None
) -> tuple[list[Restoration], tuple[int, ...]]:
    """The restorations that `sites` name, in that order (default: those of `SITES` that the model has), and the layers.

    Raises UsageError for a site that the model has not, or none of the layers, or that cannot be restored.
    """
    wanted = check_layers(None if layers is None else integers(layers, "layers"), model.n_layers)
    if sites is None:
        found = [r for name in SITES if (r := _find(model, name, wanted, optional=True)) is not None]
        return found, wanted
    if isinstance(sites, str):
        raise UsageError(f"sites is a list of names; write [{sites!r}]")
    if not sites or len(set(sites)) < len(sites):
        raise UsageError(f"sites {list(sites)}: name at least one site, and each of them once")
    named = [_find(model, name, wanted, optional=False) for name in sites]
    return [r for r in named if r is not None], wanted


def present(model: LanguageModel, sites: Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """The sites of a step's settings as `restorations` takes them: those marked ? only where one of the layers has
    them, without the mark. Raises UsageError for others that cannot be restored, and where the model has none."""
    names: list[str] = []
    for site in sites:
        try:
            names += [r.name for r in restorations(model, [site.removesuffix("?")], layers)[0]]
        except UsageError:
            if not site.endswith("?"):
                raise
    if not names:
        raise UsageError(f"sites {list(sites)}: the model has none of them")
    return names


def _find(model: LanguageModel, name: str, wanted: Sequence[int], *, optional: bool) -> Restoration | None:
    blocks = model.blocks
    kept = [frozenset(block.zero_state(1, model.dtype, model.device)) for block in blocks]
    if name == STATE:
        layers = frozenset(i for i, keys in enumerate(kept) if keys)
        found = Restoration(name, (STATE,), layers, ())
    else:
        try:
            parts = tuple(relative_name(model, part.strip()) for part in name.split("+"))
        except UsageError as error:
            if optional:
                return None
            raise UsageError(f"{error}; or {STATE!r}, all that a layer carries") from error
        if len(set(parts)) < len(parts):
            raise UsageError(f"site {name!r} names one site twice")
        tables = [{info.name: info for info in block.site_table()} for block in blocks]
        layers = frozenset(i for i, table in enumerate(tables) if all(part in table for part in parts))
        for i in sorted(layers):
            bad = next((p for p in parts if tables[i][p].constant or not tables[i][p].editable), None)
            if bad is not None:
                raise UsageError(f"site {bad!r} cannot be restored: it has no positions, or can be read only")
        post_step = all(p in POST_STEP and all(POST_STEP[p] in kept[i] for i in layers) for p in parts)
        found = Restoration(name, parts, layers, tuple(POST_STEP[p] for p in parts) if post_step else None)
    if found.layers.isdisjoint(wanted):
        if optional:
            return None
        raise UsageError(
            f"site {name!r}: none of the blocks {', '.join(map(str, wanted))} has it; "
            + (f"blocks {', '.join(map(str, sorted(found.layers)))} do" if found.layers else "choose others")
        )
    return found
