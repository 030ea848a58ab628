"""Steering variants: where to look when a model of a kind is steered.

A variant names places, each an operator and a site that make sense in such a model because of what it is, in all layers
that have the site or in those at some depths. It is a search space, small enough for a laptop by default, and claims
nothing. Every architecture has one, made from its sites; what differs from that is a file,

    @variant("mamba2")
    def mamba2() -> Variant: ...

found by import. `general` is for models of transformers' classes, `none` for the model as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...core.errors import UsageError, suggest
from ...core.names import known_as
from ...core.registry import Registry
from ..operators import OPERATORS, Operator
from ..source_recipe import source_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from ...models import LanguageModel
    from ..recipe import Recipe

#: (model, cost of ablating each channel of `source_recipe.source_site(model)`) -> the published recipe for this model
Source = Callable[["LanguageModel", "Tensor | Sequence[float]"], "Recipe"]


#: where an operator that acts on many sites is tried
DEFAULT_SITES = {"scale_channels": "mixer_out"}


@dataclass(frozen=True)
class Variant:
    """arch: of the models it is for; None: any. default_model: what `mplat eval` loads without --model; None: it has to
    be named. places: (operator, site without layer) where steering makes sense, none where nothing is steered; channels
    are searched at those whose operator multiplies them. depths: of the layers to look in, as fractions of their
    number; none: all that have the site. source: the published recipe as a rule; None: it has none."""

    name: str
    arch: str | None
    default_model: str | None
    places: tuple[tuple[str, str], ...]
    depths: tuple[float, ...] = ()
    source: Source | None = None

    @property
    def scaled_sites(self) -> list[str]:
        """The sites whose channels its operators multiply, each once: those that a search looks at."""
        return list(dict.fromkeys(site for name, site in self.places if "gains?" in OPERATORS.get(name).tensors))

    @property
    def steers(self) -> bool:
        """Whether anything is done to the model."""
        return bool(self.places)

    def layers(self, n_layers: int) -> list[int]:
        """The layers at `depths` of a model with `n_layers` blocks, ascending; none where all are to be looked in."""
        return sorted({min(n_layers - 1, int(depth * n_layers + 1e-9)) for depth in self.depths})


def layers_with(model: LanguageModel, site: str) -> list[int]:
    """The blocks of `model` that have `site`, such as the Mamba blocks of a hybrid for `mixer.delta`; ascending."""
    there = {s.name for s in model.sites()}
    return [layer for layer in range(model.n_layers) if f"blocks.{layer}.{site}" in there]


NONE = "none"
GENERAL = "general"

VARIANTS: Registry[Variant] = Registry("steering variant", "variant", f"{__name__}.variants")
_Maker = Callable[[], Variant]
_ANY_DEPTH = 12  # layers of the model that stands for an architecture: a period of most hybrids


def variant(name: str) -> Callable[[_Maker], _Maker]:
    """Register what the decorated function returns under `name`; UsageError where another file has that name."""

    def register(make: _Maker) -> _Maker:
        made = make()
        assert made.name == name, f"variant {name!r} calls itself {made.name!r}"
        VARIANTS.add(name, made, make.__module__)
        return make

    return register


def variant_names() -> list[str]:
    """Every variant there is: those with a file and one for each architecture, sorted."""
    from ...models.mixer import MIXERS

    return sorted({*VARIANTS.names(), *MIXERS.names()})


def find_variant(name: str, model: LanguageModel | None = None) -> Variant:
    """The variant called `name`, however it is spelt: its file's, else `default_variant` of that architecture.

    model: with it, places that it has not are left out.
    Raises UsageError, with the nearest name, where there is none.
    """
    known = variant_names()
    meant = known_as(name, known)
    if meant is None or meant not in known:
        raise UsageError(f"there is no {VARIANTS.kind} {name!r}; {suggest(name, known)}")
    if meant not in VARIANTS.names():
        return default_variant(meant, model)
    found = VARIANTS.get(meant)
    return found if model is None else _for_model(found, model)


def variant_for(model: LanguageModel) -> Variant:
    """The variant named like the model's architecture, else the general one."""
    arch = model.config.arch
    return find_variant(arch if arch in variant_names() else GENERAL, model)


def default_variant(arch: str, model: LanguageModel | None = None) -> Variant:
    """Where to look where no file says otherwise: at what the sites are for.

    model: one of architecture `arch`; None: a small one with the default options.
    """
    from ...models import ModelConfig, build
    from ...models.files import catalog

    if model is None:
        model = build(ModelConfig(arch, vocab_size=2, d_model=64, n_layers=_ANY_DEPTH), device="meta")
    return Variant(
        name=arch,
        arch=arch,
        default_model=next((name for name in catalog.shipped() if catalog.shape(name).arch == arch), None),
        places=places_in(model),
        source=source_recipe,
    )


def places_in(model: LanguageModel) -> tuple[tuple[str, str], ...]:
    """What can be steered because of the sites there are: what blocks add, then every operator that is for few sites.

    Operators that need a vector, a basis or an option are left out; states and writes, which are edited at chosen
    tokens, since a factor on a state at every token multiplies up; and an operator that differs from another only in
    how its channels are chosen (`scale_time_constants` at Delta, beside `scale_delta`).
    """
    found = dict.fromkeys(("scale_channels", site) for site in DEFAULT_SITES.values() if layers_with(model, site))
    every = model.sites()
    for name, op in OPERATORS.all().items():
        if "*" in op.sites or any(not key.endswith("?") for key in (*op.tensors, *op.options)):
            continue
        for layer in range(model.n_layers):
            plain = (site for site in op.sites_among(every, layer) if site.constant or len(site.shape) == 3)
            sites = (site.name.removeprefix(f"blocks.{layer}.") for site in plain)
            found |= dict.fromkeys((name, site) for site in sites if not _said_by_another(op, site))
    return tuple(found)


def _for_model(found: Variant, model: LanguageModel) -> Variant:
    return replace(found, places=tuple(place for place in found.places if layers_with(model, place[1])))


def _said_by_another(op: Operator, site: str) -> bool:
    return op.name == "scale_time_constants" and site.endswith("delta")
