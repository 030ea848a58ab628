"""Hyena: no step size and no recurrent state to steer, so what the blocks add is scaled, at one strength more."""

from __future__ import annotations

from . import Variant, variant


@variant("hyena")
def hyena() -> Variant:
    """The strengths of both operators that models with a step size have."""
    return Variant("hyena", "hyena", "tiny-hyena", {"scale_channels": (0.5, 1.5, 2.0, 5.0)})
