"""The plants there are. A plant is one line; `tests/eval/planted` measures that each one hurts and can be undone."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...core.errors import UsageError, suggest
from ...steering import find_variant, variant_names
from .plant import Kind, Plant


def _strengths() -> list[Plant]:
    """Two models, two seeds, three strengths; all channels of the loudest subspace of what the first mixer says."""
    return [
        Plant(f"{model}:mixer_out:1/{part}:{seed}", "damaged", model, "mixer_out", 0, 16, 1 / part, seed, turned=True)
        for model in ("tiny-mamba", "tiny-mamba2")
        for seed in (0, 1)
        for part in (8, 16, 32)
    ]


def _named(kind: Kind, model: str, site: str, layer: int, count: int, factor: float, **more: Any) -> Plant:
    return Plant(f"{model}:{site}:{kind}", kind, model, site, layer, count, factor, **more)


OTHERS = [
    # one damage of every other architecture, at a site that searches look at
    _named("damaged", "tiny-dense-mamba", "mixer_out", 0, 16, 1 / 16, turned=True),
    _named("damaged", "tiny-moe-mamba", "mixer_out", 0, 16, 1 / 16, turned=True),
    _named("damaged", "tiny-striped-hyena", "mixer_out", 2, 16, 1 / 16, turned=True),
    _named("loud", "tiny-stable-mamba", "mixer_out", 0, 32, 8.0),
    _named("loud", "tiny-hyena", "mixer_out", 0, 32, 8.0),
    # the time axis
    _named("damaged", "tiny-mamba", "mixer.delta", 1, 96, 1 / 16),
    _named("damaged", "tiny-mamba2", "mixer.delta", 0, 4, 1 / 128),
    # what each architecture has of its own
    _named("loud", "tiny-moe-mamba", "mixer.expert_gain", 3, 2, 256.0),
    _named("damaged", "tiny-stable-mamba", "mixer.gate", 1, 64, 1 / 32),
    _named("damaged", "tiny-hyena", "mixer.filter", 1, 64, 1 / 32),
    _named("damaged", "tiny-striped-hyena", "mixer.long_conv_out", 0, 32, 1 / 32),
    _named("state_only", "tiny-mamba", "mixer.B", 0, 8, 4.0),
    _named("state_only", "tiny-mamba2", "mixer.B", 0, 16, 1 / 32),
    _named("convolution_only", "tiny-mamba", "mixer.x_in", 1, 64, 1 / 8),
    _named("convolution_only", "tiny-mamba2", "mixer.x_in", 0, 64, 1 / 32),
    # nothing is damaged
    _named("carrier", "tiny-mamba", "mixer_out", 0, 16, 1.0, turned=True),
    _named("carrier", "tiny-mamba2", "mixer_out", 0, 16, 1.0, turned=True),
    _named("decoy", "tiny-mamba", "mixer.gated", 1, 16, 1.0),
]

PLANTS: dict[str, Plant] = {plant.name: plant for plant in [*_strengths(), *OTHERS]}


def find_plant(name: str) -> Plant:
    """A plant by name. Raises UsageError for a name that is none."""
    if name not in PLANTS:
        raise UsageError(f"unknown plant {name!r}; {suggest(name, PLANTS)}")
    return PLANTS[name]


def is_searched(plant: Plant) -> bool:
    """Whether a search over channels looks at the plant's site unless it is told others (`searched_sites`)."""
    return plant.site in _scaled_sites().get(plant.model, ())


@cache
def _scaled_sites() -> dict[str, set[str]]:
    """The sites that variants scale, by the models that stand for them."""
    found: dict[str, set[str]] = {}
    for variant in map(find_variant, variant_names()):
        if variant.default_model is not None:
            found.setdefault(variant.default_model, set()).update(variant.scaled_sites)
    return found
