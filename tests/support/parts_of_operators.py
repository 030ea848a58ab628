"""An example of every operator, made from what it says of itself."""

from __future__ import annotations

import torch
from mplat.models import LanguageModel, Site
from mplat.steering import Part, find_operator
from mplat.steering.units import unit_called

#: options of operators whose meaning a test cannot guess
OPTIONS: dict[str, dict[str, object]] = {"stored_edit": {"kind": "clamp", "fields": {"low": -0.01, "high": 0.01}}}


def example(model: LanguageModel, name: str, layer: int, site_name: str, unit: str) -> Part | None:
    """A part of operator `name` that should be felt; None where the unit asks for a tensor that there is none of."""
    op = find_operator(name)
    site = next(s for s in model.sites() if s.name == f"blocks.{layer}.{site_name}")
    width = int(site.channels)
    channels = tuple(range(min(2, width))) if op.acts_on else None
    tensors = {
        key.removesuffix("?"): _tensor(axes, site, len(channels or range(width)))
        for key, axes in op.tensors.items()
        if not key.endswith("?") or (key in ("gains?", "atom?") and unit == "share")
    }
    identity = unit_called(unit).identity
    if name == "stored_edit":
        return Part(name, site_name, (layer,), 1.0, unit, channels, {}, OPTIONS[name])
    strength = next(s for s in (identity + 0.5, identity - 0.5, identity - 1) if op.low <= s <= op.high)
    scales = (0.5,) if unit == "rms" else ()
    options = {k: v for k, v in OPTIONS.get(name, {}).items()}
    return Part(name, site_name, (layer,), strength, unit, channels, tensors, options, scales=scales)


def _tensor(axes: str, site: Site, n: int) -> torch.Tensor:
    behind = [int(size) for size in site.axes[1:]]
    sizes = {"n": [n], "C": [int(site.channels)], "...": behind}
    shape = [size for axis in axes.split() for size in sizes.get(axis, [min(2, n)])]
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)
