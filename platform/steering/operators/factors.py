"""By what an operator that multiplies channels multiplies them: its strength, or a gain for each channel."""

from __future__ import annotations

from torch import Tensor

from . import Target


def factors(target: Target) -> float | Tensor:
    """The strength s, or, with gains g (n,), 1 + s (g - 1) as (n, 1, ...), with the axes that the site has behind its
    channels: they share their channel's gain."""
    gains = target.tensors.get("gains")
    if gains is None:
        return target.strength
    site = next(site for site in target.model.sites() if site.name == target.site)
    behind = len(site.axes) - 1
    return (1.0 + target.strength * (gains - 1.0)).reshape(-1, *[1] * behind)
