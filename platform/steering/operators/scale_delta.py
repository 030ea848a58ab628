"""Faster or slower recurrent channels."""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_delta",
    sites=("mixer.delta",),
    units=("factor", "share"),
    tensors={"gains?": "n"},
    low=0.0,
)
def scale_delta(target: Target) -> list[Edit]:
    """Multiply the step sizes of recurrent channels: above 1 they write more and forget faster."""
    return [Scale(target.site, factors(target), channels=target.channels)]
