"""A direction taken out of a site, in part or in full (directional ablation; Arditi et al., arXiv 2406.11717)."""

from __future__ import annotations

from ...models import Edit, ScaleSubspace
from . import Target, operator


@operator("project_out", sites=("*",), units=("share",), tensors={"vector": "n ..."})
def project_out(target: Target) -> list[Edit]:
    """Take the share of the direction u of the vector out, x - strength (x . u) u; 1 removes it, below 0 adds to it.

    Raises UsageError for the zero vector.
    """
    return [ScaleSubspace(target.site, target.tensors["vector"][None], 1.0 - target.strength, channels=target.channels)]
