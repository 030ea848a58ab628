"""Steering variants: one file each, found by import.

    @variant("mamba2")
    def mamba2() -> Variant: ...

A variant says where to look when a model of its kind is steered: which operators, at which depths, with which strengths
and on how many channels. It is a search space, small enough for a laptop by default, and claims nothing. `general` is
for models that have no variant of their own, `none` for the model as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...core.registry import Registry


@dataclass(frozen=True)
class Variant:
    """arch: of the models it is for; None: any. default_model: what `mplat eval` loads without --model; None: it has to
    be named. strengths: operator -> strengths tried, none where nothing is steered. depths: candidate layers as
    fractions of the number of layers. channel_share: part of a site's channels that is steered."""

    name: str
    arch: str | None
    default_model: str | None
    strengths: dict[str, tuple[float, ...]]
    depths: tuple[float, ...]
    channel_share: float

    @property
    def steers(self) -> bool:
        """Whether anything is done to the model."""
        return bool(self.strengths)

    def layers(self, n_layers: int) -> list[int]:
        """The candidate layers of a model with `n_layers` blocks, ascending."""
        return sorted({min(n_layers - 1, int(depth * n_layers + 1e-9)) for depth in self.depths})


NONE = "none"
GENERAL = "general"

VARIANTS: Registry[Variant] = Registry("steering variant", "variant", f"{__name__}.variants", aliases=True)
variant_names, find_variant = VARIANTS.names, VARIANTS.get
_Maker = Callable[[], Variant]


def variant(name: str) -> Callable[[_Maker], _Maker]:
    """Register what the decorated function returns under `name`."""

    def register(make: _Maker) -> _Maker:
        made = make()
        assert made.name == name, f"variant {name!r} calls itself {made.name!r}"
        VARIANTS.add(name, made, make.__module__)
        return make

    return register


def variant_for(arch: str) -> Variant:
    """The variant for models of architecture `arch`: the one of that name, else the general one."""
    return find_variant(arch if arch in variant_names() else GENERAL)
