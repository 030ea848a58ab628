"""Operators: what a part of a recipe does to a site, as edits of `mplat.models`. One file each, found by looking.

    @operator("scale_delta", sites=("mixer.delta",), low=0.0)
    def scale_delta(target: Target) -> list[Edit]:
        return [Scale(target.site, target.strength, channels=target.channels)]

An operator is handed one site of one layer. The contract, checked by tests that run over everything registered: the
strength that is its unit's identity changes no bit (such a part makes no edit at all); only the given channels of the
given site are touched; prefill and decode are steered alike; nothing depends on anything but the arguments. Positions
and phase are the part's, and are added to the edits that an operator makes.

It does not choose layers, channels or strengths (`search`), and it does not run a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...core.errors import UsageError
from ...core.registry import Registry
from ..units import MAX_STRENGTH, unit_called

if TYPE_CHECKING:
    from ...models import Edit, LanguageModel, Site
    from ...models.block import Block


@dataclass(frozen=True, eq=False)
class Target:
    """What an operator is handed. site: its full name. channels: of the site, None for all. strength: in `unit`; where
    that is `rms`, times the site's root mean square already, so in the site's own units. tensors, options: of the part.
    Tensors are float64."""

    model: LanguageModel
    layer: int | None  # None for a site outside of blocks
    site: str
    channels: tuple[int, ...] | None
    strength: float
    unit: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """What names of the block's other sites begin with."""
        assert self.layer is not None, f"{self.site} is in no block"
        return f"blocks.{self.layer}."

    @property
    def block(self) -> Block:
        """The block that the site is in."""
        assert self.layer is not None, f"{self.site} is in no block"
        return self.model.blocks[self.layer]


Build = Callable[[Target], "list[Edit]"]


@dataclass(frozen=True)
class Operator:
    """A registered operator.

    meaning: one sentence. sites: what follows `blocks.{layer}.`, with `*` for any part. units: of its strength, the
    usual one first. tensors: name -> axes, a `?` behind the name where it may be left out: `n` channels acted on, `C`
    channels of the site, `...` its axes behind the channels, `k` any number. options: name -> meaning, `?` likewise.
    acts_on: what `channels` count, or "" where it takes none. low, high: strengths allowed. module: where it stands."""

    name: str
    build: Build
    meaning: str
    sites: tuple[str, ...]
    units: tuple[str, ...] = ("factor",)
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    acts_on: str = "channels"
    low: float = -MAX_STRENGTH
    high: float = MAX_STRENGTH
    module: str = ""

    @property
    def site(self) -> str:
        """The first of its sites, which is the only one of most operators."""
        return self.sites[0]

    def takes(self, site: str) -> bool:
        """Whether it acts on a site of this name within a block."""
        return any(fnmatchcase(site, pattern) for pattern in self.sites)

    def sites_in(self, model: LanguageModel, layer: int) -> list[Site]:
        """The sites of a block on which it can act."""
        return self.sites_among(model.sites(), layer)

    def sites_among(self, sites: Sequence[Site], layer: int) -> list[Site]:
        """Those of a model's `sites`, which are long to list, that lie in a block and on which it can act."""
        prefix = f"blocks.{layer}."
        return [
            site for site in sites
            if site.editable and site.name.startswith(prefix) and self.takes(site.name.removeprefix(prefix))
        ]  # fmt: skip


OPERATORS: Registry[Operator] = Registry("steering operator", "operator", f"{__name__}.operators")
operator_names, find_operator = OPERATORS.names, OPERATORS.get


def operator(
    name: str,
    *,
    sites: Sequence[str],
    units: Sequence[str] = ("factor",),
    tensors: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    acts_on: str = "channels",
    low: float = -MAX_STRENGTH,
    high: float = MAX_STRENGTH,
) -> Callable[[Build], Build]:
    """Register a function Target -> edits; the first line of its docstring is its meaning. Fields as in `Operator`."""
    for unit in units:
        unit_called(unit)

    def register(build: Build) -> Build:
        meaning = (build.__doc__ or "").strip().splitlines()[0] if build.__doc__ else ""
        OPERATORS.add(
            name,
            Operator(
                name, build, meaning, tuple(sites), tuple(units), dict(tensors or {}), dict(options or {}), acts_on,
                low, high, build.__module__,
            ),
            build.__module__,
        )  # fmt: skip
        return build

    return register


def check_strength(strength: object, name: str) -> float:
    """`strength` if it is a finite number that operator `name` allows; UsageError where it is not."""
    chosen = find_operator(name)
    allowed = f"{name} allows {chosen.low:g} to {chosen.high:g}"
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise UsageError(f"steering strength {strength!r} is not a finite number; {allowed}")
    if not chosen.low <= strength <= chosen.high:
        raise UsageError(f"steering strength {strength:g} is out of range; {allowed}")
    return float(strength)


def fitting(model: LanguageModel) -> list[str]:
    """The operators that have a site to act on in some block of `model`, sorted."""
    sites, layers = model.sites(), range(model.n_layers)
    return [name for name, op in OPERATORS.all().items() if any(op.sites_among(sites, layer) for layer in layers)]
