"""DenseMamba: how much a layer reads of the states of the layers below.

The site holds a factor for each channel and layer below, after its silu: E channels for the nearest layer, E for the
next. A block without a layer below has no such gate.
"""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_dense_gate",
    sites=("mixer.dense_gate",),
    units=("factor", "share"),
    tensors={"gains?": "n"},
)
def scale_dense_gate(target: Target) -> list[Edit]:
    """Multiply what a layer reads of the states of the layers below; at 0 it reads its own alone."""
    return [Scale(target.site, factors(target), channels=target.channels)]
