"""Models of a kind that has no variant of its own: what their mixers add to the residual stream is scaled."""

from __future__ import annotations

from . import Variant, variant


@variant("general")
def general() -> Variant:
    """The one place that every block of every architecture has; depths and strengths as for the others, so that one
    search is not larger than another."""
    return Variant(
        name="general",
        arch=None,
        default_model=None,
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
