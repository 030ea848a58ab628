"""Models of any kind: what their mixers add to the residual stream is scaled."""

from __future__ import annotations

from ..source_recipe import source_recipe
from . import Variant, variant


@variant("general")
def general() -> Variant:
    """The one place that every block of every architecture has."""
    return Variant("general", None, None, (("scale_channels", "mixer_out"),), source=source_recipe)
