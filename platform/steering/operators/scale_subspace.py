"""More or less of what lies in a subspace of a site."""

from __future__ import annotations

from ...models import Edit, ScaleSubspace
from . import Target, operator


@operator("scale_subspace", sites=("*",), tensors={"basis": "k n ..."})
def scale_subspace(target: Target) -> list[Edit]:
    """Multiply what lies in the span of the basis by the strength and leave the rest; at 0 the subspace is removed."""
    return [ScaleSubspace(target.site, target.tensors["basis"], target.strength, channels=target.channels)]
