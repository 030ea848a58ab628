"""More or less of some channels, by one factor or by a gain for each."""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator


@operator(
    "scale_channels",
    sites=("*",),
    units=("factor", "share"),
    tensors={"gains?": "n"},
    strengths=(0.5, 2.0, 5.0),
)
def scale_channels(target: Target) -> list[Edit]:
    """Multiply channels of a site by the strength, or, with gains g, by 1 + strength (g - 1), a share of each gain."""
    gains = target.tensors.get("gains")
    if gains is None:
        return [Scale(target.site, target.strength, channels=target.channels)]
    site = next(site for site in target.model.sites() if site.name == target.site)
    behind = len(site.shape) - (1 if site.constant else 3)  # axes behind the channels, which share a channel's gain
    factors = (1.0 + target.strength * (gains - 1.0)).reshape(-1, *[1] * behind)
    return [Scale(target.site, factors, channels=target.channels)]
