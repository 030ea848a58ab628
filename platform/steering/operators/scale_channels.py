"""More or less of some channels, by one factor or by a gain for each."""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_channels",
    sites=("*",),
    units=("factor", "share"),
    tensors={"gains?": "n"},
)
def scale_channels(target: Target) -> list[Edit]:
    """Multiply channels of a site by the strength, or, with gains g, by 1 + strength (g - 1), a share of each gain."""
    return [Scale(target.site, factors(target), channels=target.channels)]
