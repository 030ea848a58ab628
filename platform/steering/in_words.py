"""What a recipe does, in words."""

from __future__ import annotations

from .part import Part
from .recipe import Recipe
from .units import unit_called

SHOWN = 12  # channels that are named one by one


def describe(recipe: Recipe) -> list[str]:
    """A line for each part, in their order; one that says so where there is nothing to do."""
    if not recipe.parts:
        return ["nothing: the model is left as it is"]
    return [describe_part(part) for part in recipe.parts]


def describe_part(part: Part) -> str:
    """One part in a sentence without its full stop."""
    where = (
        part.site
        if not part.layers
        else f"{part.site} of layer{'s' if len(part.layers) > 1 else ''} {_list(part.layers)}"
    )
    what = (
        ""
        if part.channels is None
        else f", {len(part.channels)} {part.of.acts_on or 'channels'} ({_some(part.channels)})"
    )
    tensors = "".join(f", {name} {'x'.join(map(str, t.shape)) or 'number'}" for name, t in sorted(part.tensors.items()))
    options = "".join(f", {name} {value}" for name, value in sorted(part.options.items()))
    if part.is_identity:
        how = "strength that changes nothing"
    else:
        how = f"{_gains(part)}strength {part.strength:g} ({unit_called(part.unit).meaning.partition(';')[0]})"
    places = part.positions if isinstance(part.positions, str) else f"positions {_list(part.positions)}"
    when = "" if places == "all" else f", at {places}"
    phase = "" if part.phase == "both" else f", in {part.phase} alone"
    return f"{part.operator} at {where}{what}{tensors}{options}: {how}{when}{phase}"


def _gains(part: Part) -> str:
    if "gains" not in part.tensors:
        return ""
    gains = 1.0 + part.strength * (part.tensors["gains"].double() - 1.0)
    return f"factors {float(gains.min()):.3g} to {float(gains.max()):.3g}, median {float(gains.median()):.3g}; "


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _some(channels: tuple[int, ...]) -> str:
    more = f", ... {len(channels) - SHOWN} more" if len(channels) > SHOWN else ""
    return _list(tuple(sorted(channels)[:SHOWN])) + more
