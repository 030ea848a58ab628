"""Models of any kind: what their mixers add to the residual stream is scaled."""

from __future__ import annotations

from ..operators import find_operator
from ..source_recipe import source_recipe
from . import Variant, variant


@variant("general")
def general() -> Variant:
    """The one place that every block of every architecture has; depths and strengths as for the others, so that one
    search is not larger than another."""
    strengths = {"scale_channels": find_operator("scale_channels").strengths}
    return Variant("general", None, None, strengths, places=(("scale_channels", "mixer_out"),), source=source_recipe)
