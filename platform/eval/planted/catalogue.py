"""The plants there are. A plant is one line; `tests/eval/planted` measures that each one hurts and can be undone."""

from __future__ import annotations

from ...core.errors import UsageError, suggest
from .plant import Plant


def _mixer_out() -> list[Plant]:
    """Two models, two seeds, three strengths; all channels of the loudest subspace of what the first mixer says."""
    return [
        Plant(f"{model}:mixer_out:1/{part}:{seed}", "damaged", model, "mixer_out", 0, 16, 1 / part, seed, turned=True)
        for model in ("tiny-mamba", "tiny-mamba2")
        for seed in (0, 1)
        for part in (8, 16, 32)
    ]


PLANTS: dict[str, Plant] = {plant.name: plant for plant in _mixer_out()}


def find_plant(name: str) -> Plant:
    """A plant by name. Raises UsageError for a name that is none."""
    if name not in PLANTS:
        raise UsageError(f"unknown plant {name!r}; {suggest(name, PLANTS)}")
    return PLANTS[name]
